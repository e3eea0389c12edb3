/** Short words on what was done, at the foot of the page: read out, and gone after some seconds. */
import {html, signal, useEffect, useRef, useSignal} from "../core/html.js"

const SECONDS = 6
/** @type {{value: {id: number, text: string}[], peek(): {id: number, text: string}[]}} */
const shown = signal([])
let made = 0

/** Says that something was done. What failed is said where it failed, by `Failure`. */
export function told(/** @type {string} */ text) {
  const id = (made += 1)
  shown.value = [...shown.peek().slice(-2), {id, text}]
  setTimeout(() => { shown.value = shown.peek().filter(each => each.id !== id) }, SECONDS * 1000)
}

export function Toasts() {
  const all = useSignal(shown)
  const box = useRef(null)
  useEffect(() => { // a popover lies above dialogs; the latest one lies on top
    if (box.current.matches(":popover-open")) box.current.hidePopover()
    if (all.length > 0) box.current.showPopover()
  }, [all])
  return html`
    <div class="sr-only" role="status">${all.at(-1)?.text}</div>
    <div class="toasts" ref=${box} popover="manual" aria-hidden="true">${all.map(({id, text}) => html`<p key=${id}>${text}</p>`)}</div>`
}
