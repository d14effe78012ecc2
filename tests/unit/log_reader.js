// Runs the console's log.js against a stand-in for a page and for the API, and prints what is in the page then.
// Told on stdin: { script, parts, size, live, hash, kept: [[offset, text]…], steps: ["earlier" | "later" | event…] }.
"use strict";
const fs = require("fs");
const told = JSON.parse(fs.readFileSync(0, "utf8"));

class Words {
  constructor(text) {
    this.textContent = text;
  }
}

class Element {
  constructor(tag) {
    Object.assign(this, { tag, className: "", dataset: {}, children: [], heard: {}, scrollTop: 0, clientHeight: 100 });
  }
  get scrollHeight() {
    return 100 + 10 * this.all("li").length;
  }
  get textContent() {
    return this.children.map((child) => child.textContent).join("");
  }
  set textContent(text) {
    this.children = [new Words(text)];
  }
  get lastElementChild() {
    return this.children.at(-1);
  }
  get classList() {
    const names = () => this.className.split(" ").filter(Boolean);
    return {
      contains: (name) => names().includes(name),
      add: (name) => (this.className = [...names(), name].join(" ")),
      remove: (name) => (this.className = names().filter((other) => other !== name).join(" ")),
    };
  }
  own(child) {
    child.parent = this;
    return child;
  }
  appendChild(child) {
    this.children.push(this.own(child));
    return child;
  }
  prepend(...children) {
    this.children.unshift(...children.map((child) => this.own(child)));
  }
  replaceChildren(...children) {
    this.children = children.map((child) => this.own(child));
  }
  remove() {
    this.parent.children = this.parent.children.filter((child) => child !== this);
  }
  all(tag) {
    const found = this.children.filter((child) => child instanceof Element);
    return found.flatMap((child) => [...(child.tag === tag ? [child] : []), ...child.all(tag)]);
  }
  getElementsByClassName(name) {
    return this.all("li").filter((item) => item.classList.contains(name));
  }
  querySelectorAll(selector) {
    return this.getElementsByClassName(selector.slice(1));
  }
  addEventListener(name, hear) {
    this.heard[name] = hear;
  }
  setAttribute() {}
  scrollIntoView() {}
}

// ---- the API: kept pieces, with a mark where something between them was cut ---------------------------------
const encoder = new TextEncoder();
const kept = told.kept.map(([at, text]) => ({ at, bytes: encoder.encode(text) }));
const requests = [];

function answer(address) {
  const [, offset, length] = /offset=(\d+)&length=(\d+)/.exec(address).map(Number);
  requests.push([offset, length]);
  const found = [];
  let expected = offset, dropped = length;
  for (const piece of kept) {
    const from = Math.max(offset, piece.at), to = Math.min(offset + length, piece.at + piece.bytes.length);
    if (from >= to) continue;
    if (from > expected) found.push(encoder.encode("\n[... " + (from - expected) + " bytes cut ...]\n"));
    found.push(piece.bytes.subarray(from - piece.at, to - piece.at));
    dropped -= to - from;
    expected = to;
  }
  const headers = { get: () => String(dropped) };
  return { ok: true, headers, arrayBuffer: async () => new Uint8Array(Buffer.concat(found)).buffer };
}

// ---- the page --------------------------------------------------------------------------------------------------
const named = {};
for (const name of ["lines", "state", "error", "earlier", "later", "follow", "wrap"]) named[name] = new Element("div");
named.error.appendChild(new Element("span"));
const body = new Element("div"), log = new Element("section");
body.appendChild(named.lines);
log.dataset = { log: "/logs", parts: told.parts, size: String(told.size), ...(told.live ? { live: "" } : {}) };
log.querySelector = (selector) => (selector === ".log-body" ? body : named[/data-log-(\w+)/.exec(selector)[1]]);
const items = () => named.lines.all("li");
const streams = [];

class Stream extends Element {
  static CLOSED = 2;
  constructor(address) {
    super("stream");
    streams.push(address);
    Stream.last = this;
  }
  close() {}
}

const page = {
  document: {
    getElementById: (id) => (id === "log" ? log : items().find((item) => item.id === id)),
    createElement: (tag) => new Element(tag),
    createTextNode: (text) => new Words(text),
    addEventListener() {},
  },
  location: { hash: told.hash },
  addEventListener() {},
  fetch: async (address) => answer(address),
  EventSource: Stream,
};

const settled = () => new Promise((resolve) => setTimeout(resolve, 130));

async function main() {
  new Function(...Object.keys(page), fs.readFileSync(told.script, "utf8"))(...Object.values(page));
  await settled();
  for (const step of told.steps) {
    if (typeof step === "string") named[step].heard.click();
    else Stream.last.heard.log({ data: JSON.stringify(step), lastEventId: String(step.behind) });
    await settled();
  }
  const shown = {
    lines: items().map((item) => item.children[1].textContent),
    pieces: items().map((item) => item.children[1].children.map((one) => [one.className ?? "", one.textContent])),
    places: items().map((item) => Number(item.id.slice(3))),
    classes: items().map((item) => item.className),
    first: named.lines.all("ol")[0]?.start,
    headings: named.lines.all("div").filter((one) => one.className === "log-part").map((one) => one.textContent),
    is_whole: named.earlier.hidden,
    state: named.state.textContent,
    requests,
    streams,
  };
  console.log(JSON.stringify(shown));
}

main();
