/** What a model wrote, as Markdown. Nothing in it becomes markup that was not Markdown: HTML appears as text. */
import {html, render, useEffect, useRef} from "../core/html.js"
import {marked, Renderer} from "../vendor/marked.js"
import {script} from "../core/script.js"
import {CopyButton} from "./copyable.js"

const renderer = new Renderer()
renderer.html = ({text}) => escape(text)
renderer.image = ({href, text}) => escape(text || href) // a picture would tell its host who reads
const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "h1", "h2",
    "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "input"],
  ALLOWED_ATTR: ["href", "type", "checked", "disabled", "align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
}

const escape = text => text.replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`)

/** Draws `text`; while it grows, at most once a frame. Blocks of code can be copied once it is `done`. */
export function Markdown({text, done = false}) {
  const box = useRef(null)
  const waiting = useRef(0)
  const latest = useRef({text, done})
  latest.current = {text, done}
  useEffect(() => {
    if (waiting.current) return
    waiting.current = requestAnimationFrame(async () => {
      const {DOMPurify} = await script("purify")
      waiting.current = 0
      if (box.current) draw(box.current, latest.current, DOMPurify)
    })
  }, [text, done])
  useEffect(() => () => cancelAnimationFrame(waiting.current), [])
  return html`<div class="markdown" ref=${box} />`
}

function draw(box, {text, done}, DOMPurify) {
  const markup = marked.parse(text, {renderer, gfm: true, breaks: true})
  box.innerHTML = DOMPurify.sanitize(markup, ALLOWED)
  for (const link of box.querySelectorAll("a")) {
    link.rel = "noopener noreferrer"
    link.target = "_blank"
  }
  if (done) for (const block of box.querySelectorAll("pre")) addCopyButton(block)
}

function addCopyButton(block) {
  const frame = document.createElement("div")
  frame.className = "copied-code"
  block.replaceWith(frame)
  const corner = document.createElement("span")
  frame.append(corner, block)
  block.tabIndex = 0 // what is wider than its place scrolls by keyboard, too
  render(html`<${CopyButton} text=${block.textContent} />`, corner)
}
