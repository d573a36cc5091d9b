"""The codec that devices and servers share: noise, packing, frames, accounting."""
