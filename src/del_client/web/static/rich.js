// An answer's text as nodes: lines, fenced code, `code` and **bold**. Nothing else of Markdown, never markup, links or
// images: an answer comes from a server that nobody trusts.

import { element } from "./dom.js";

export function rich(text) {
  const parts = document.createDocumentFragment();
  text.split(/^```[^\n]*$/m).forEach((part, index) => {
    if (index % 2) parts.append(element("pre", {}, element("code", {}, part.replace(/^\n|\n$/g, ""))));
    else inline(parts, part.replace(/^\n+|\n+$/g, index ? "\n" : ""));
  });
  return parts;
}

function inline(parent, text) {
  for (const piece of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`[^`]+`$/.test(piece)) parent.append(element("code", {}, piece.slice(1, -1)));
    else if (/^\*\*[^*]+\*\*$/.test(piece)) parent.append(element("strong", {}, piece.slice(2, -2)));
    else parent.append(piece);
  }
}
