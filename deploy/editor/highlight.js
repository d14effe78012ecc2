// What a page needs that shows Python and edits nothing: the parser, and its tokens by their kinds.
export { parser } from "@lezer/python";
export { highlightTree, tagHighlighter, tags } from "@lezer/highlight";
