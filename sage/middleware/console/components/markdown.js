/**
 * What a model wrote, as Markdown. Nothing in it becomes markup that was not Markdown: HTML appears as text.
 *
 * While a text grows, only its last block is drawn anew: what stands before it does not change any more.
 */
import {html, render, useEffect, useRef} from "../core/html.js"
import {Lexer, marked, Renderer} from "../vendor/marked.js"
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
  RETURN_DOM_FRAGMENT: true,
}
const OPTIONS = {renderer, gfm: true, breaks: true}
const PAUSE = 100 // milliseconds between two drawings at least
const REST = 14 // and so many times as long as the last drawing took, until it was on the screen

const escape = text => text.replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`)

/** Draws `text`; while it grows, some times a second. Blocks of code can be copied once it is `done`. */
export function Markdown({text, done = false}) {
  const box = useRef(null)
  const drawing = useRef(/** @type {Drawing | null} */ (null))
  const waiting = useRef(0)
  const free = useRef(0)
  const latest = useRef({text, done})
  latest.current = {text, done}
  useEffect(() => {
    if (waiting.current) {
      if (!done) return
      clearTimeout(waiting.current)
    }
    const draw = async () => {
      const {DOMPurify} = await script("purify")
      waiting.current = 0
      if (!box.current) return
      const began = performance.now()
      drawing.current ??= new Drawing(box.current, DOMPurify)
      drawing.current.show(latest.current.text, latest.current.done)
      const ended = performance.now()
      const took = ended - began
      free.current = ended + Math.max(PAUSE, REST * took)
      requestAnimationFrame(() => { // what follows it lays the page out and paints it
        const frame = performance.now()
        setTimeout(() => { free.current = performance.now() + Math.max(PAUSE, REST * (took + performance.now() - frame)) })
      })
    }
    waiting.current = window.setTimeout(draw, done ? 0 : Math.max(0, free.current - performance.now()))
  }, [text, done])
  useEffect(() => () => clearTimeout(waiting.current), [])
  return html`<div class="markdown" ref=${box} />`
}

/** The elements of a text that grows. */
export class Drawing {
  settled = "" // the beginning of the text, whose blocks stand
  tail = /** @type {ChildNode[]} */ ([]) // the elements of the rest
  code = /** @type {{raw: string, node: Text} | null} */ (null) // the rest, if it is one block of code

  constructor(box, DOMPurify) {
    this.box = box
    this.purify = DOMPurify
  }

  /** Forgets all. */
  begin() {
    this.settled = ""
    this.tail = []
    this.code = null
    this.box.replaceChildren()
  }

  show(text, done) {
    if (done || !text.startsWith(this.settled)) this.begin() // what was said of links at the end also holds before
    const rest = text.slice(this.settled.length)
    if (this.growCode(rest, done)) return
    const tokens = new Lexer(OPTIONS).lex(rest)
    const last = done ? 0 : tokens.findLastIndex(token => token.type !== "space")
    const settled = tokens.slice(0, Math.max(0, last)).map(token => token.raw).join("")
    for (const node of this.tail) node.remove()
    // The lexer writes line ends and tabs of its own: what it settled may not be what the text says.
    if (settled && rest.startsWith(settled)) {
      this.box.append(this.drawn(settled))
      this.settled += settled
    }
    const left = text.slice(this.settled.length)
    const fragment = this.drawn(left)
    this.tail = [...fragment.childNodes]
    const code = this.tail.length === 1 && /^(`{3,}|~{3,})[^\n`]*\n/.exec(left) && fragment.querySelector("pre > code")?.firstChild
    this.code = !done && code instanceof Text && !/\n(```|~~~)/.test(left) ? {raw: left, node: code} : null
    this.box.append(fragment)
    if (done) for (const block of this.box.querySelectorAll("pre")) addCopyButton(block)
  }

  /** Adds to an open block of code, if that is all that happens. */
  growCode(rest, done) {
    if (!this.code || done || !rest.startsWith(this.code.raw)) return false
    const added = rest.slice(this.code.raw.length)
    if (/[`~\r\t]/.test(added)) return false // it may end here, or the lexer writes it otherwise
    this.code.node.appendData(added)
    this.code.raw = rest
    return true
  }

  drawn(text) {
    const fragment = this.purify.sanitize(marked.parse(text, OPTIONS), ALLOWED)
    for (const link of fragment.querySelectorAll("a")) {
      link.rel = "noopener noreferrer"
      link.target = "_blank"
    }
    return fragment
  }
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
