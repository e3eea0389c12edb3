/** A labelled field of a form. */
import {html, useMemo} from "../core/html.js"

let made = 0

/**
 * `children` is drawn with the field's id; `hint` stands below it, `error` in its place when there is one.
 * A field that a form reads when it is sent has `defaultValue` or `defaultChecked`: `value` and `checked` would take back what was
 * typed whenever the page around it is drawn anew.
 */
export function Field({label, hint, error, children}) {
  const id = useMemo(() => `field-${(made += 1)}`, [])
  const note = error ?? hint
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${children({id, "aria-describedby": note ? `${id}-note` : undefined, "aria-invalid": error ? "true" : undefined})}
      ${note && html`<p id=${`${id}-note`} class=${error ? "note bad-text" : "note"}>${note}</p>`}
    </div>`
}
