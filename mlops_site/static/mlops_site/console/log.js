// The log of one job: read from the API in pieces, from its end backwards, and followed live by its event stream.
// What a stranger printed becomes text nodes only. Colours become classes; whatever else would steer a terminal or
// the direction of text is shown, not obeyed. What is in the page is bounded, however long the log is.
"use strict";
(() => {
  const log = document.getElementById("log");
  if (!log) return;
  const find = (name) => log.querySelector("[data-log-" + name + "]");
  const body = log.querySelector(".log-body"), lines = find("lines"), state = find("state");
  const address = log.dataset.log;

  const WINDOW = 256 * 1024, WINDOW_MAX = 1024 * 1024 * 1024; // bytes that are asked for at once
  const WEIGHT_MAX = 60000; // nodes and text in the page, about
  const LINE_MAX = 8000, BLOCK_LINES = 500;
  const RETRY_MILLISECONDS = 5000;
  const TOKEN = /\x1b\[([0-9;]*)m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const COLOURS = /\x1b\[[0-9;]*m/g;
  const ERROR = /^\s*(?:[\w.]*(?:Error|Exception|KeyboardInterrupt)\b(?::|$)|Traceback \(most recent|(?:error|fatal):|(?:ERROR|CRITICAL|FATAL)\b)/;
  const CUT = /^\[\.\.\. (\d+) bytes cut \.\.\.\]$/;
  const HUES = ["a-dim", "a-red", "a-green", "a-yellow", "a-blue", "a-magenta", "a-cyan", ""];

  // ---- one line --------------------------------------------------------------------------------
  const PLAIN = { hue: "", bold: false, dim: false };

  // What `ESC [ … m` turns the style into; colours of a palette of their own are left out.
  function styled(style, codes) {
    const next = { ...style };
    const numbers = codes === "" ? [0] : codes.split(";").map(Number);
    for (let at = 0; at < numbers.length; at++) {
      const code = numbers[at];
      if (code === 0) Object.assign(next, PLAIN);
      else if (code === 1) next.bold = true;
      else if (code === 2) next.dim = true;
      else if (code === 22) next.bold = next.dim = false;
      else if (code >= 30 && code <= 37) next.hue = HUES[code - 30];
      else if (code >= 90 && code <= 97) next.hue = HUES[code - 90];
      else if (code === 39) next.hue = "";
      else if (code === 38 || code === 48) at += numbers[at + 1] === 5 ? 2 : 4;
    }
    return next;
  }

  const classOf = (style) => [style.hue, style.bold && "a-bold", style.dim && "a-dim"].filter(Boolean).join(" ");
  const shown = (control) => "\\u" + control.codePointAt(0).toString(16).padStart(4, "0");

  // The line as [text, class] pieces, and the style that goes on behind it.
  function piecesOf(text, style) {
    const pieces = [];
    const put = (part, name) => part && pieces.push([part, name]);
    let at = 0;
    for (const found of text.matchAll(TOKEN)) {
      put(text.slice(at, found.index), classOf(style));
      at = found.index + found[0].length;
      if (found[1] !== undefined) style = styled(style, found[1]);
      else if (found[0] !== "\r") put(shown(found[0]), "a-esc");
      else if (at < text.length) put("\n", ""); // a bar that writes itself anew: each state below the one before
    }
    put(text.slice(at), classOf(style));
    return { pieces, style };
  }

  function textIn(parent, text, name) {
    const node = document.createTextNode(text);
    if (!name) return parent.appendChild(node);
    const span = parent.appendChild(document.createElement("span"));
    span.className = name;
    return span.appendChild(node);
  }

  // `line` is { at, text, hidden }: its first byte, its beginning, and how many bytes of it are not shown.
  function paint(item, line, style) {
    const cut = CUT.test(line.text);
    const painted = piecesOf(line.text, style);
    item.className = cut ? "is-cut" : ERROR.test(line.text.replace(COLOURS, "")) ? "is-error" : "";
    const link = document.createElement("a");
    link.href = "#at-" + line.at;
    link.tabIndex = -1;
    link.setAttribute("aria-label", "Link to this line");
    const words = document.createElement("span");
    for (const [text, name] of painted.pieces) textIn(words, text, name);
    if (line.hidden > 0) textIn(words, " … " + line.hidden + " more bytes: download the log", "a-esc");
    item.id = "at-" + line.at;
    item.replaceChildren(link, words);
    return { style: painted.style, weight: 3 + painted.pieces.length + line.text.length / 100 };
  }

  // ---- lines of bytes ----------------------------------------------------------------------------
  const decoder = new TextDecoder();

  function lineOf(bytes, at, start, end) {
    const kept = Math.min(end, start + LINE_MAX);
    return { at: at + start, text: decoder.decode(bytes.subarray(start, kept)), hidden: end - kept };
  }

  // Each line that begins at a byte of the log; `open` says that the last one has no end yet. Where something was
  // cut, the API writes a mark, which is no byte of the log: `marked` is how many bytes the marks stand for.
  function linesOf(bytes, at, dropped) {
    const found = [];
    let start = 0, marked = 0;
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      const line = lineOf(bytes, at, start, end), cut = cutIn(line);
      if (cut > 0 && marked + cut <= dropped) {
        if (found.at(-1)?.text === "") found.pop(); // the mark's own line break
        line.at -= 1;
        at += cut - line.text.length - 2;
        marked += cut;
      }
      found.push(line);
      start = end + 1;
    }
    const open = start < bytes.length;
    if (open) found.push(lineOf(bytes, at, start, bytes.length));
    return { found, open, marked };
  }

  const cutIn = (line) => Number(CUT.exec(line.text)?.[1] ?? 0);
  const cutLine = (count, at) => ({ at, text: "[... " + count + " bytes cut ...]", hidden: 0 });

  // How many bytes at the end begin a character whose rest is not there.
  function unfinished(bytes) {
    for (let back = 1; back <= Math.min(3, bytes.length); back++) {
      const byte = bytes[bytes.length - back];
      if ((byte & 0xc0) === 0x80) continue;
      const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
      return length > back ? back : 0;
    }
    return 0;
  }

  // ---- what is in the page: blocks of lines, in order -----------------------------------------------
  const parts = log.dataset.parts.split(";").filter(Boolean).map((told) => {
    const at = told.indexOf(" ");
    return { at: Number(told.slice(0, at)), words: told.slice(at + 1) };
  });
  let live = "live" in log.dataset, known = Number(log.dataset.size);
  let blocks, begin, end, weight, number, numberIsTrue, open, style, detached, following, step;

  function reset(at) {
    lines.replaceChildren();
    blocks = [];
    begin = end = at;
    weight = 0;
    number = 1;
    numberIsTrue = false;
    open = null;
    style = PLAIN;
    detached = false;
    following = true;
    step = WINDOW;
  }

  function blockOf(part, at, isFirst) {
    const node = document.createElement("div");
    if (isFirst) {
      const heading = node.appendChild(document.createElement("div"));
      heading.className = "log-part";
      heading.textContent = part.words;
    }
    const list = node.appendChild(document.createElement("ol"));
    list.className = "log-lines" + (part.words.startsWith("Environment") ? " is-build" : "");
    return { node, list, part, at, count: 0, weight: 1, top: null };
  }

  function addLine(block, line) {
    const item = document.createElement("li");
    const before = style;
    const painted = paint(item, line, before);
    style = painted.style;
    block.list.appendChild(item);
    block.count += 1;
    block.weight += painted.weight;
    weight += painted.weight;
    return { item, line, before };
  }

  function forget(block) {
    weight -= block.weight;
    block.node.remove();
  }

  // From the top when somebody follows, from the bottom when somebody reads back.
  function keepBounded(fromTop) {
    while (weight > WEIGHT_MAX && blocks.length > 1) {
      const block = fromTop ? blocks.shift() : blocks.pop();
      forget(block);
      if (fromTop) {
        number += block.count;
        begin = blocks[0].at;
      } else {
        end = block.at;
        open = null;
        detached = true;
        leave();
      }
    }
  }

  function tell() {
    let next = number;
    for (const block of blocks) {
      block.list.start = next;
      next += block.count;
    }
    const errors = lines.getElementsByClassName("is-error").length;
    find("error").hidden = errors === 0;
    find("error").lastElementChild.textContent = errors + (errors === 1 ? " error" : " errors");
    find("earlier").hidden = begin === 0;
    find("later").hidden = !detached;
    find("follow").hidden = !live;
    find("follow").setAttribute("aria-pressed", String(following && !detached));
    const count = blocks.reduce((sum, block) => sum + block.count, 0);
    const told = count === 0 ? (live ? "Nothing printed yet" : "Nothing was printed") : count + " lines shown";
    const numbers = count > 0 && !numberIsTrue ? "; numbers count from where reading began" : "";
    state.textContent = told + numbers + (live ? (detached ? "; not followed" : lost ? "; reconnecting" : "; live") : "");
    if (following && !detached) body.scrollTop = body.scrollHeight;
    lastTop = body.scrollTop;
  }

  // ---- reading backwards -----------------------------------------------------------------------------
  async function read(from, to) {
    const answer = await fetch(address + "?offset=" + from + "&length=" + (to - from), { headers: { Accept: "text/plain" } });
    if (!answer.ok) throw new Error("the log was not answered: " + answer.status);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    return { bytes, dropped: Number(answer.headers.get("X-Log-Dropped")) };
  }

  // The piece before what is shown: never across the beginning of a part, and from the beginning of a line.
  async function readEarlier() {
    const part = parts.filter((one) => one.at < begin).at(-1);
    if (!part) {
      begin = 0;
      return 0;
    }
    let from = Math.max(part.at, begin - step);
    let { bytes, dropped } = await read(from, begin);
    // Where much was cut there is little to read: the next look goes further back.
    step = bytes.length < WINDOW / 4 ? Math.min(step * 4, WINDOW_MAX) : WINDOW;
    if (bytes.length > 2 * WINDOW && linesOf(bytes, from, dropped).marked === 0) {
      // It went past what was cut, into all that was kept before it.
      from += bytes.length - WINDOW;
      bytes = bytes.subarray(bytes.length - WINDOW);
      const whole = bytes.indexOf(10) + 1;
      from += whole;
      bytes = bytes.subarray(whole);
    }
    const first = bytes.indexOf(10);
    if (from > part.at && dropped === 0 && first >= 0 && first < bytes.length - 1) {
      bytes = bytes.subarray(first + 1);
      from += first + 1;
    }
    if (blocks.length === 0 && live) {
      const rest = unfinished(bytes);
      bytes = bytes.subarray(0, bytes.length - rest);
      end -= rest;
    }
    const told = linesOf(bytes, from, dropped);
    tellCut(dropped - told.marked, told);
    putBefore(part, from, told);
    begin = from;
    return told.found.length;
  }

  // What was cut at the end of a piece has its mark at the top of what is shown, or gets one.
  function tellCut(count, told) {
    if (count <= 0) return;
    const top = blocks[0]?.top, known = top ? cutIn(top.line) : 0;
    if (known > 0) {
      top.line.text = cutLine(known + count).text;
      paint(top.item, top.line, top.before);
    } else {
      told.found.push(cutLine(count, begin - count));
      told.open = false;
    }
  }

  function putBefore(part, from, told) {
    const isTail = blocks.length === 0, after = style;
    style = PLAIN;
    const made = [];
    let block = null, last = null;
    for (const line of told.found) {
      if (!block || block.count >= BLOCK_LINES) made.push((block = blockOf(part, line.at, line.at === part.at)));
      last = addLine(block, line);
      block.top ??= last;
    }
    if (isTail && told.open) open = last;
    if (!isTail) style = after;
    const height = body.scrollHeight;
    lines.prepend(...made.map((one) => one.node));
    if (!following) body.scrollTop += body.scrollHeight - height;
    blocks.unshift(...made);
    number = isTail ? 1 : number - told.found.length;
    if (made.length > 0) made[0].at = from;
  }

  async function readTail() {
    for (let looks = 0; begin > 0 && end - begin < WINDOW && looks < 8; looks++) await readEarlier();
    settleNumbers();
  }

  function settleNumbers() {
    if (begin > 0) return;
    number = 1;
    numberIsTrue = true;
  }

  let busy = false;
  async function alone(work) {
    if (busy) return;
    busy = true;
    try {
      await work();
      tell();
    } catch (error) {
      state.textContent = "The log cannot be read now (" + error.message + "). Reload the page to try again.";
    } finally {
      busy = false;
    }
  }

  const loadEarlier = () => alone(async () => {
    following = false;
    while (begin > 0 && (await readEarlier()) === 0);
    settleNumbers();
    keepBounded(false);
  });

  // ---- following ---------------------------------------------------------------------------------------
  let source = null, lost = false, due = 0, lastTop = 0;

  function leave() {
    source?.close();
    source = null;
  }

  function follow() {
    leave();
    if (!live || detached) return;
    source = new EventSource(address + "?follow=1&offset=" + end);
    source.addEventListener("open", () => { lost = false; tellSoon(); });
    source.addEventListener("log", (event) => take(JSON.parse(event.data), Number(event.lastEventId)));
    source.addEventListener("end", () => { live = false; leave(); tellSoon(); });
    source.addEventListener("error", () => {
      // Where each answer ends by itself, its end is no loss.
      lost = !("inTurns" in log.dataset);
      tellSoon();
      if (source?.readyState === EventSource.CLOSED) setTimeout(() => { if (source?.readyState === EventSource.CLOSED) follow(); }, RETRY_MILLISECONDS);
    });
  }

  function take(told, behind) {
    if (behind <= end) return;
    const words = (told.part === "build" ? "Environment" : "Run") + (told.attempt > 1 ? ", attempt " + told.attempt : "");
    let part = parts.at(-1);
    const isNew = !part || part.words !== words;
    if (isNew) {
      part = { at: told.offset - told.dropped, words };
      parts.push(part);
      open = null;
      style = PLAIN;
    }
    if (told.dropped > 0) {
      open = null;
      append(part, cutLine(told.dropped).text + "\n", told.offset - told.dropped);
    }
    append(part, told.text, told.offset);
    end = behind;
    known = Math.max(known, end);
    if (blocks.length > 0 && begin === blocks[0].at) settleNumbers();
    // Nothing moves under somebody who reads: what comes then is fetched when he or she comes back.
    if (weight > WEIGHT_MAX && !following) {
      detached = true;
      leave();
    }
    tellSoon();
  }

  const encoder = new TextEncoder();

  function append(part, text, offset) {
    let at = offset;
    const pieces = text.split("\n");
    pieces.forEach((piece, index) => {
      const isLast = index === pieces.length - 1;
      if (open) lengthen(piece);
      else if (piece !== "" || !isLast) open = addLine(blockFor(part, at), { at, text: piece.slice(0, LINE_MAX), hidden: Math.max(0, piece.length - LINE_MAX) });
      if (!isLast) open = null;
      at += encoder.encode(piece).length + 1;
    });
  }

  function blockFor(part, at) {
    const last = blocks.at(-1);
    if (last && last.part === part && last.count < BLOCK_LINES) return last;
    const block = blockOf(part, at, !last || last.part !== part);
    blocks.push(block);
    lines.appendChild(block.node);
    return block;
  }

  function lengthen(piece) {
    const line = open.line, room = Math.max(0, LINE_MAX - line.text.length);
    if (piece === "") return;
    line.text += piece.slice(0, room);
    line.hidden += Math.max(0, piece.length - room);
    style = paint(open.item, line, open.before).style;
    const more = Math.min(piece.length, room) / 100;
    blocks.at(-1).weight += more;
    weight += more;
  }

  function tellSoon() {
    if (due) return;
    due = setTimeout(() => {
      due = 0;
      if (following) keepBounded(true);
      tell();
    }, 100);
  }

  // ---- by hand -------------------------------------------------------------------------------------------
  const goToEnd = () => alone(async () => {
    leave();
    reset(known);
    await readTail();
    follow();
  });

  function toggleFollow() {
    following = !following || detached;
    if (detached) goToEnd();
    else tell();
  }

  function toggleWrap() {
    const wrapped = !log.classList.toggle("is-unwrapped");
    find("wrap").setAttribute("aria-pressed", String(wrapped));
  }

  function pick(item) {
    if (!item) return;
    for (const other of lines.querySelectorAll(".is-picked")) other.classList.remove("is-picked");
    item.classList.add("is-picked");
    following = false;
    item.scrollIntoView({ block: "center" });
    tell();
  }

  function nextError() {
    const errors = [...lines.getElementsByClassName("is-error")];
    const at = errors.findIndex((item) => item.classList.contains("is-picked"));
    pick(errors[(at + 1) % errors.length]);
  }

  // A link to a line: what is around it is read, wherever it is.
  async function showLinked() {
    const linked = /^#at-(\d{1,15})$/.exec(location.hash);
    if (!linked) return;
    const at = Number(linked[1]);
    if (at < begin || at > end) {
      const next = parts.find((part) => part.at > at);
      reset(Math.min(known, next ? next.at : known, at + WINDOW * 3 / 4));
      detached = end < known;
      leave();
      following = false;
      await readEarlier();
      settleNumbers();
    }
    pick(document.getElementById("at-" + at));
  }

  async function lookAtLink() {
    await showLinked();
    if (!source) follow();
  }

  body.addEventListener("scroll", () => {
    const isAtEnd = body.scrollHeight - body.scrollTop - body.clientHeight < 24;
    const was = following;
    if (isAtEnd) following = true;
    else if (body.scrollTop < lastTop) following = false;
    lastTop = body.scrollTop;
    if (was !== following) find("follow").setAttribute("aria-pressed", String(following && !detached));
  });
  find("earlier").addEventListener("click", loadEarlier);
  find("later").addEventListener("click", goToEnd);
  find("follow").addEventListener("click", toggleFollow);
  find("wrap").addEventListener("click", toggleWrap);
  find("error").addEventListener("click", nextError);
  addEventListener("hashchange", () => alone(lookAtLink));

  let pending = "";
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("input, textarea, select, [contenteditable], dialog");
    if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
    if (pending !== "g") {
      if (event.key === "f" && live) toggleFollow();
      if (event.key === "w") toggleWrap();
      if (event.key === "e") nextError();
    }
    pending = event.key;
  });

  reset(known);
  alone(async () => {
    await readTail();
    await lookAtLink();
  });
})();
