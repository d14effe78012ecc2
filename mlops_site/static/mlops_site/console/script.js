// The script on the page of its job: in colours, and with a mark on the line that an address names. What comes from
// the server is text with at most one mark, which stays; a long script stays in one colour.
"use strict";
(() => {
  const { parser, highlightTree, tagHighlighter, tags } = CodeMirror_highlight;
  const text = document.querySelector("pre[data-python]");
  if (!text) return;
  const numbers = text.parentElement.querySelector(".numbers");
  const LONGEST = 256 * 1024, NAME = /^#script-line-(\d{1,7})$/;
  const KINDS = tagHighlighter([
    { tag: tags.comment, class: "c-comment" },
    { tag: [tags.string, tags.special(tags.string), tags.character], class: "c-string" },
    { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword, tags.definitionKeyword, tags.moduleKeyword, tags.modifier, tags.self], class: "c-keyword" },
    { tag: [tags.number, tags.bool, tags.null], class: "c-number" },
    { tag: [tags.definition(tags.variableName), tags.function(tags.definition(tags.variableName)), tags.className, tags.definition(tags.className)], class: "c-name" },
  ]);
  const source = text.textContent;
  const starts = [0];
  for (let at = source.indexOf("\n"); at >= 0; at = source.indexOf("\n", at + 1)) starts.push(at + 1);
  const failing = Number(text.querySelector(".is-error")?.id.match(/\d+$/)?.[0] || 0);
  const tokens = [];
  if (source.length <= LONGEST) highlightTree(parser.parse(source), KINDS, (from, to, kind) => tokens.push({ from, to, kind }));

  // A line in an element of its own, from its first character to before its end.
  function lineOf(number, kind) {
    const from = starts[number - 1];
    const to = number < starts.length ? starts[number] - 1 : source.length;
    const element = document.createElement("span");
    element.className = "line " + kind;
    element.id = "script-line-" + number;
    return { from, to, element };
  }

  function paint(picked) {
    const lines = [];
    if (failing) lines.push(lineOf(failing, picked === failing ? "is-error is-picked" : "is-error"));
    if (picked && picked !== failing) lines.push(lineOf(picked, "is-picked"));
    lines.sort((one, other) => one.from - other.from);
    const whole = document.createDocumentFragment();
    let at = 0, next = 0;

    // Characters up to `to`, in the lines that have an element and between them.
    function put(to, kind) {
      while (at < to || (next < lines.length && lines[next].from === at)) {
        const line = lines[next];
        if (line && at === line.from && !line.element.parentNode) whole.append(line.element);
        const inside = line && at >= line.from;
        const end = Math.min(to, line ? (inside ? line.to : line.from) : to);
        if (end > at) {
          let node = document.createTextNode(source.slice(at, end));
          if (kind) {
            const span = document.createElement("span");
            span.className = kind;
            span.append(node);
            node = span;
          }
          (inside ? line.element : whole).append(node);
          at = end;
        }
        if (inside && at === line.to) next += 1;
        else if (end === to) return;
      }
    }
    for (const token of tokens) {
      put(token.from, "");
      put(token.to, token.kind);
    }
    put(source.length, "");
    text.replaceChildren(whole);
  }

  function follow() {
    const number = Number(location.hash.match(NAME)?.[1] || 0);
    const picked = number <= starts.length ? number : 0;
    paint(picked);
    if (!picked) return;
    const line = document.getElementById("script-line-" + picked);
    line.scrollIntoView({ block: "center" });
    // A line may be wider than its box: its beginning and its number are what one wants.
    text.parentElement.scrollLeft = 0;
    text.parentElement.focus({ preventScroll: true });
  }

  // The numbers are one text: which of them it was says its place.
  numbers.addEventListener("click", (event) => {
    const style = getComputedStyle(numbers);
    const top = numbers.getBoundingClientRect().top + parseFloat(style.paddingTop);
    const number = Math.floor((event.clientY - top) / parseFloat(style.lineHeight)) + 1;
    if (number >= 1 && number <= starts.length) location.hash = "script-line-" + number;
  });
  addEventListener("hashchange", follow);
  follow();
})();
