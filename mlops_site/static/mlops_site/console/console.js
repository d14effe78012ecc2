// The console's behaviour: theme, keys, refreshing, ages, selections, dialogs, copying.
// Everything works without it but for what refreshes and asks first. No eval, no inline handlers.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => within.querySelectorAll(selector);

  // ---- theme ----------------------------------------------------------------------------------
  const NEXT = { system: "light", light: "dark", dark: "system" };
  const theme = () => root.dataset.theme || "system";

  function nameTheme() {
    for (const button of all("[data-theme-toggle]")) {
      button.title = "Theme: " + theme();
      button.setAttribute("aria-label", button.title);
    }
  }

  function turnTheme() {
    const next = NEXT[theme()];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // It lasts for this page then.
    }
    nameTheme();
  }

  // ---- ages: they grow without asking anybody ----------------------------------------------------
  const MINUTE = 60, HOUR = 3600, DAY = 86400;
  const parts = (whole, unit, smaller, a, b) => Math.floor(whole / unit) + a + " " + Math.floor((whole % unit) / smaller) + b;

  function span(seconds) {
    if (seconds < 10) return Math.max(0, seconds).toFixed(1) + "s";
    const whole = Math.floor(seconds);
    if (whole < MINUTE) return whole + "s";
    if (whole < HOUR) return parts(whole, MINUTE, 1, "m", "s");
    if (whole < DAY) return parts(whole, HOUR, MINUTE, "h", "m");
    return parts(whole, DAY, HOUR, "d", "h");
  }

  function age(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < MINUTE) return whole + "s";
    if (whole < HOUR) return Math.floor(whole / MINUTE) + " min";
    return whole < DAY ? Math.floor(whole / HOUR) + " h" : Math.floor(whole / DAY) + " d";
  }

  // What the server's clock is ahead of this one's.
  let ahead = 0;
  const served = document.querySelector("[data-served]");
  if (served) ahead = Date.parse(served.dataset.served) - Date.now();
  const now = () => Date.now() + ahead;

  function say(element, words) {
    if (element.textContent !== words) element.textContent = words;
  }

  // In the viewer's zone; the exact UTC stays in the title.
  const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const inZone = (moment) => zoned.format(new Date(moment));

  // Django's own lists and forms write a moment as text.
  const WRITTEN = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$/;
  function findMoments() {
    for (const place of all(".stock :is(td, th, a, .readonly)")) {
      const text = place.textContent.trim();
      if (place.childElementCount > 0 || !WRITTEN.test(text)) continue;
      const time = document.createElement("time");
      time.dateTime = text.replace(" ", "T");
      time.title = text.replace("Z", " UTC");
      time.dataset.moment = "";
      place.replaceChildren(time);
    }
  }

  function growAges() {
    for (const time of all("time[data-ago]")) say(time, age((now() - Date.parse(time.dateTime)) / 1000) + " ago");
    for (const time of all("time[data-moment]")) say(time, inZone(time.dateTime));
    for (const time of all("time[data-since]")) say(time, span(Math.floor((now() - Date.parse(time.dateTime)) / 1000)));
  }

  // ---- the tab tells how the page's job is: its title, its icon, and a notification at its end -------
  let told = "";

  function wantsNotice() {
    try {
      return localStorage.getItem("notify") === "1" && "Notification" in window && Notification.permission === "granted";
    } catch {
      return false;
    }
  }

  function tellTab() {
    const head = document.querySelector("[data-tab-title]");
    if (!head) return;
    const { tabTitle, tabState, tabIcon } = head.dataset;
    document.title = tabTitle;
    document.querySelector("link[rel=icon]").href = tabIcon;
    const ended = told && told !== tabState && !["queued", "running"].includes(tabState);
    told = tabState;
    if (ended && document.hidden && wantsNotice()) new Notification(tabTitle, { icon: tabIcon, tag: location.pathname });
    nameNotice();
  }

  // The button says what is so now, and what stands in the way.
  function nameNotice() {
    const button = document.querySelector("[data-notify]");
    if (!button) return;
    button.hidden = !("Notification" in window);
    const denied = !button.hidden && Notification.permission === "denied";
    button.disabled = denied;
    button.setAttribute("aria-pressed", String(wantsNotice()));
    button.title = denied ? "This browser was told to show no notifications of this site" : wantsNotice() ? "A notification comes when this job ends; press to turn it off" : "Notify me when this job ends";
  }

  async function turnNotice() {
    try {
      const next = wantsNotice() ? "0" : "1";
      if (next === "1" && (await Notification.requestPermission()) !== "granted") complain("The browser does not allow notifications of this site.");
      else localStorage.setItem("notify", next);
    } catch {
      complain("This browser keeps no settings of this site.");
    }
    nameNotice();
  }

  // ---- refreshing: [data-refresh="5"] is asked to refresh by htmx, never in a hidden tab -----------
  const due = new Map();
  let answeredAt = Date.now(), lost = false;

  // Text that somebody marks would be gone with a swap.
  function isMarked() {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && document.querySelector("main").contains(selection.anchorNode);
  }

  function refresh() {
    if (document.hidden || isMarked()) return;
    // What was replaced asks no more.
    for (const element of due.keys()) if (!element.isConnected) due.delete(element);
    for (const element of all("[data-refresh]")) {
      const every = Number(element.dataset.refresh) * 1000;
      if (!due.has(element)) due.set(element, Date.now() + every);
      if (Date.now() < due.get(element)) continue;
      due.set(element, Date.now() + every);
      element.dispatchEvent(new CustomEvent("refresh"));
    }
  }

  function tellLive() {
    for (const live of all(".live")) {
      const seconds = Math.floor((Date.now() - answeredAt) / 1000);
      live.classList.toggle("is-lost", lost);
      say(live, lost ? "Reconnecting, last answer " + age(seconds) + " ago" : "Updated " + age(seconds) + " ago");
    }
  }

  // In the words of a toast, for what was asked by hand and got no answer.
  function complain(words) {
    const toasts = document.querySelector(".toasts") || document.querySelector("main").appendChild(document.createElement("div"));
    toasts.className = "toasts";
    toasts.setAttribute("role", "status");
    // What is asked again and again complains once.
    if ([...toasts.children].some((one) => one.textContent === words)) return;
    const toast = toasts.appendChild(document.createElement("div"));
    toast.className = "toast";
    toast.appendChild(document.createElement("span"));
    toast.appendChild(document.createElement("div")).textContent = words;
  }

  document.addEventListener("htmx:afterRequest", (event) => {
    // Who asked, also where the answer has replaced it.
    const asker = event.detail.requestConfig?.elt ?? event.detail.elt;
    if (!asker.matches("[data-refresh]")) {
      if (!event.detail.successful) complain("This was not answered. Reload the page, then try again.");
      return;
    }
    lost = !event.detail.successful;
    if (lost) return;
    // A session that is over leads to the login page.
    if (new URL(event.detail.xhr.responseURL).pathname.includes("/login/")) location.reload();
    answeredAt = Date.now();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    for (const element of due.keys()) due.set(element, 0);
    refresh();
  });

  // What somebody opened stays open when what it is in is replaced.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    for (const opened of all("details[open][id]", event.detail.target)) {
      const next = event.detail.fragment.querySelector("#" + CSS.escape(opened.id));
      if (next) next.open = true;
    }
  });

  // ---- lists: how many are chosen, and what is asked about them -----------------------------------
  function countChosen() {
    for (const bulk of all(".bulk")) {
      const count = all("tbody .pick input:checked", bulk.closest("form")).length;
      bulk.hidden = count === 0;
      say(bulk.querySelector("b"), count + " selected");
    }
  }

  function moveTo(row) {
    if (!row) return;
    for (const other of all("tr[aria-current]")) other.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
    row.scrollIntoView({ block: "nearest" });
  }

  function onListKey(key) {
    const rows = [...all("[data-list] tbody tr")];
    if (rows.length === 0) return;
    const at = rows.findIndex((row) => row.hasAttribute("aria-current"));
    if (key === "j") moveTo(rows[Math.min(at + 1, rows.length - 1)]);
    if (key === "k") moveTo(rows[Math.max(at - 1, 0)]);
    if (key === "x" && at >= 0) rows[at].querySelector(".pick input")?.click();
    if (key === "o" && at >= 0) rows[at].querySelector(".lead a")?.click();
  }

  // A dialog that the server wrote is opened when it comes, and gone when it is closed.
  document.addEventListener("htmx:afterSwap", () => {
    growAges();
    tellTab();
    for (const dialog of all("dialog[data-asks]:not([open])")) {
      dialog.addEventListener("close", () => dialog.remove());
      dialog.showModal();
    }
  });

  // ---- copying -----------------------------------------------------------------------------------
  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    const before = button.title;
    try {
      await navigator.clipboard.writeText(text);
      button.title = "Copied";
    } catch {
      button.title = "Not copied: select the text instead";
    }
    button.setAttribute("aria-label", button.title);
    setTimeout(() => {
      button.title = before;
      button.setAttribute("aria-label", before);
    }, 2000);
  }

  // ---- clicks and keys ------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-theme-toggle], [data-dismiss], [data-copy], [data-close], [data-open], [data-notify]");
    if (!element) return;
    if (element.matches("[data-notify]")) turnNotice();
    if (element.matches("[data-theme-toggle]")) turnTheme();
    if (element.matches("[data-dismiss]")) element.closest(".toast").remove();
    if (element.matches("[data-copy]")) copy(element);
    if (element.matches("[data-close]") && element.closest("dialog")) {
      event.preventDefault();
      element.closest("dialog").close();
    }
    if (element.matches("[data-open]")) document.getElementById(element.dataset.open).showModal();
  });

  document.addEventListener("change", (event) => {
    const every = event.target.closest("[data-all]");
    if (every) for (const box of all("tbody .pick input", every.closest("form"))) box.checked = every.checked;
    if (event.target.closest(".pick")) countChosen();
  });

  let pending = "";
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable], dialog");
    if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key;
    if (key === "/") {
      document.querySelector('main [data-key="/"], [data-key="/"]')?.focus();
      event.preventDefault();
    } else if (pending === "g") {
      document.querySelector('[data-go="' + CSS.escape(key) + '"]')?.click();
    } else if (key === "n") {
      document.querySelector('[data-go="n"]')?.click();
    } else if ("jkxo".includes(key)) {
      onListKey(key);
    } else if (key === "?") {
      document.getElementById("keys")?.showModal();
    }
    pending = key;
  });

  function start() {
    nameTheme();
    countChosen();
    findMoments();
    growAges();
    tellTab();
    setInterval(() => {
      growAges();
      tellLive();
      refresh();
    }, 1000);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
