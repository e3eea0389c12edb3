/** The filters above a list. They stand in `<div class="filters">`. */
import {html, useEffect, useRef, useState} from "../core/html.js"

const PAUSE = 300 // milliseconds in which nothing is typed

/**
 * A text to filter by, handed on after a pause in typing, or at once by Enter.
 * @param {{label: string, value: string, onChange: (text: string) => void, placeholder?: string}} properties
 */
export function TextFilter({label, value, onChange, placeholder}) {
  const [typed, setTyped] = useState(value)
  const waiting = useRef(0)
  useEffect(() => { setTyped(value) }, [value])
  useEffect(() => () => clearTimeout(waiting.current), [])
  const hand = (/** @type {string} */ text, after = 0) => {
    clearTimeout(waiting.current)
    waiting.current = setTimeout(() => onChange(text), after)
  }
  return html`
    <label><span>${label}</span>
      <input value=${typed} placeholder=${placeholder} spellcheck="false" autocomplete="off"
        onInput=${event => { setTyped(event.target.value); hand(event.target.value, PAUSE) }}
        onChange=${event => event.target.value === value || hand(event.target.value)} /></label>`
}

/**
 * One of some values.
 * @param {{label: string, value: string, options: [string, any][], onChange: (value: string) => void}} properties
 */
export const ChoiceFilter = ({label, value, options, onChange}) => html`
  <label><span>${label}</span>
    <select value=${value} onChange=${event => onChange(event.target.value)}>${options.map(([each, text]) => html`
      <option key=${each} value=${each}>${text}</option>`)}</select></label>`
