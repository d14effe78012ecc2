// An editor in the place of every <textarea data-editor>; the text stays the textarea's, which is what is sent.
// It lives in a shadow root: there CodeMirror's rules are a constructed sheet, which the policy allows, while in a
// document they would be a <style> element, which it refuses. The page's tokens reach into it.
"use strict";
(() => {
  const {
    EditorState, EditorView, bracketMatching, defaultKeymap, drawSelection, highlightActiveLine, highlightActiveLineGutter,
    highlightSpecialChars, history, historyKeymap, indentOnInput, indentUnit, indentWithTab, keymap, lineNumbers, pythonLanguage,
    syntaxHighlighting, tagHighlighter, tags,
  } = CodeMirror_editor;

  const KINDS = tagHighlighter([
    { tag: tags.comment, class: "c" },
    { tag: [tags.string, tags.special(tags.string), tags.character], class: "s" },
    { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword, tags.definitionKeyword, tags.moduleKeyword, tags.modifier, tags.self], class: "k" },
    { tag: [tags.number, tags.bool, tags.null], class: "n" },
    { tag: [tags.definition(tags.variableName), tags.function(tags.definition(tags.variableName)), tags.className, tags.definition(tags.className)], class: "f" },
  ]);
  const LOOK = EditorView.theme({
    "&": { height: "min(34rem, 70vh)", backgroundColor: "var(--surface)", color: "var(--fg)", fontSize: "var(--t-xs)" },
    "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
    ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6" },
    ".cm-content": { caretColor: "var(--fg)" },
    ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--fg-3)", borderRight: "1px solid var(--line)" },
    ".cm-lineNumbers .cm-gutterElement": { minWidth: "2.75rem", paddingRight: ".5rem" },
    ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--hover) 45%, transparent)" },
    ".cm-activeLineGutter": { backgroundColor: "var(--hover)", color: "var(--fg)" },
    ".cm-cursor": { borderLeftColor: "var(--fg)" },
    "& > .cm-scroller > .cm-selectionLayer .cm-selectionBackground": { background: "color-mix(in srgb, var(--accent) 25%, transparent)" },
    "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground": { background: "color-mix(in srgb, var(--accent) 25%, transparent)" },
    "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--accent-soft)", outline: "1px solid var(--accent)" },
    "&.cm-focused .cm-nonmatchingBracket": { backgroundColor: "var(--failed-soft)" },
    ".cm-specialChar": { color: "var(--failed)", backgroundColor: "var(--failed-soft)" },
    ".k": { color: "var(--code-keyword)" },
    ".s": { color: "var(--code-string)" },
    ".c": { color: "var(--code-comment)" },
    ".n": { color: "var(--code-number)" },
    ".f": { color: "var(--code-name)" },
  });
  // What turns or hides text is shown as a mark, with its name on hover; CodeMirror knows most of it.
  const UNSEEN = highlightSpecialChars({ addSpecialChars: /[\u202a-\u202c\u2060-\u2064\u2068-\u206f\u200c\u200d]/g });

  const submit = (area) => () => {
    area.form.requestSubmit();
    return true;
  };

  function edit(area) {
    const host = document.createElement("div");
    host.className = "editor";
    const root = host.attachShadow({ mode: "open" });
    const inner = root.appendChild(document.createElement("div"));
    const view = new EditorView({
      root,
      parent: inner,
      state: EditorState.create({
        doc: area.value,
        extensions: [
          lineNumbers(), history(), drawSelection(), UNSEEN, highlightActiveLine(), highlightActiveLineGutter(), bracketMatching(),
          indentOnInput(), indentUnit.of("    "), pythonLanguage, syntaxHighlighting(KINDS), LOOK,
          keymap.of([{ key: "Mod-Enter", run: submit(area) }, ...defaultKeymap, ...historyKeymap, indentWithTab]),
          EditorView.contentAttributes.of({ "aria-label": area.labels[0]?.textContent || "Editor", tabindex: "0" }),
          EditorView.updateListener.of((update) => {
            if (!update.docChanged) return;
            area.value = view.state.doc.toString();
            area.dispatchEvent(new Event("input", { bubbles: true }));
          }),
        ],
      }),
    });
    // From outside the target is the host: what is typed must not be taken for the console's keys.
    host.addEventListener("keydown", (event) => event.stopPropagation());
    area.after(host);
    area.hidden = true;
    area.focus = () => view.focus();
    // What else writes into the textarea says so.
    area.addEventListener("set", () => view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: area.value } }));
  }

  for (const area of document.querySelectorAll("textarea[data-editor]")) edit(area);
})();
