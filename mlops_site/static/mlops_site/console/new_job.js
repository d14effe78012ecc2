// The form of a new job: lines that are added and removed, offers that are taken, files that are read, and a dry
// run that is asked for again when it says so. All of it is convenience: the form works without.
"use strict";
(() => {
  const form = document.getElementById("new-job");
  const LARGEST_FILE = 5 * 1024 * 1024, WAITING_MS = 10_000;
  let timer = 0, changed = false, leaving = false;

  const typed = () => form.dispatchEvent(new Event("input", { bubbles: true }));
  const look = () => form.dispatchEvent(new CustomEvent("look"));
  const rows = (list) => list.querySelectorAll(".pair");
  const isEmpty = (row) => [...row.querySelectorAll("input")].every((input) => input.value === "");

  // ---- lines of names and values: an empty one always stands ready below the others -----------------
  function keepSpare(list) {
    const last = [...rows(list)].at(-1);
    if (isEmpty(last)) return;
    const next = last.cloneNode(true);
    for (const input of next.querySelectorAll("input")) input.value = "";
    last.after(next);
  }

  function remove(button) {
    const row = button.closest(".pair");
    const list = row.closest("[data-pairs]");
    if (rows(list).length === 1) for (const input of row.querySelectorAll("input")) input.value = "";
    else row.remove();
    keepSpare(list);
    rows(list)[0].querySelector("input").focus();
    typed();
  }

  // ---- requirements: another name for a line, or one more line ---------------------------------------
  function take(button) {
    const area = document.getElementById("requirements");
    const lines = area.value.split("\n");
    const line = Number(button.dataset.line);
    if (line) lines[line - 1] = button.dataset.offer;
    else if (lines.at(-1) === "") lines[lines.length - 1] = button.dataset.offer;
    else lines.push(button.dataset.offer);
    area.value = lines.join("\n");
    area.focus();
    typed();
  }

  async function read(input) {
    const file = input.files[0];
    input.value = "";
    if (!file || file.size > LARGEST_FILE) return;
    const area = document.getElementById(input.dataset.into);
    area.value = await file.text();
    area.dispatchEvent(new Event("set"));
    document.getElementById("script_name").value = file.name;
    typed();
  }

  form.addEventListener("input", (event) => {
    changed = true;
    const list = event.target.closest?.("[data-pairs]");
    if (list) keepSpare(list);
  });
  form.addEventListener("change", (event) => {
    if (event.target.matches("[data-into]")) read(event.target);
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-remove], [data-offer]");
    if (!button) return;
    if (button.matches("[data-remove]")) remove(button);
    else take(button);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    // Enter in a field of one line would send a job that nobody has finished writing.
    else if (event.key === "Enter" && event.target.matches("input")) event.preventDefault();
  });

  // ---- the dry run, and what comes of sending --------------------------------------------------------
  const sends = (event) => (event.detail.requestConfig?.elt ?? event.detail.elt) === form;

  // Fields that are refused say so to whoever does not see it.
  function tellInvalid() {
    for (const slot of form.querySelectorAll(".slot")) {
      const field = form.querySelector('[aria-describedby="' + slot.id + '"]');
      if (field) field.setAttribute("aria-invalid", String(slot.querySelector(".error:not(.is-doubt)") !== null));
    }
  }

  function toFirstRefused() {
    const refused = form.querySelector(".slot .error:not(.is-doubt)");
    if (!refused) return;
    const slot = refused.closest(".slot");
    const named = (input) => input.value !== "" && refused.textContent.includes(input.value + ":");
    const field = form.querySelector('[aria-describedby="' + slot.id + '"]') || [...form.querySelectorAll(".pair input, .kept input")].find(named);
    (field?.hidden ? slot : field || slot).scrollIntoView({ block: "center" });
    field?.focus();
  }

  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (!form.contains(event.detail.elt)) return;
    leaving = event.detail.xhr.getResponseHeader("HX-Redirect") !== null;
    // Who is logged out meanwhile keeps what was typed.
    if (!new URL(event.detail.xhr.responseURL).pathname.includes("/login/")) return;
    event.preventDefault();
    document.getElementById("verdict").textContent = "You are logged out. Log in in another tab, then go on here.";
  });
  // The same words again are not read out again.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = event.detail;
    if (target.id === "verdict" && target.textContent === fragment.textContent) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!form.contains(event.detail.elt)) return;
    tellInvalid();
    if (sends(event) && !leaving) toFirstRefused();
    clearTimeout(timer);
    const asked = Number(document.querySelector("#looked input").dataset.again) || WAITING_MS;
    timer = setTimeout(() => document.hidden || look(), asked);
  });
  document.addEventListener("visibilitychange", () => document.hidden || look());
  addEventListener("beforeunload", (event) => {
    if (changed && !leaving) event.preventDefault();
  });

  for (const element of form.querySelectorAll("[data-needs-script]")) element.hidden = false;
  for (const list of form.querySelectorAll("[data-pairs]")) keepSpare(list);
})();
