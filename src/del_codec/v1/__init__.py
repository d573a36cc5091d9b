"""Generated from protos/del_codec/v1; do not edit."""
