/** A dialog with a form that is sent; it stays open, with the reason, while that fails. */
import {html, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {Failure} from "./notice.js"
import {Dialog} from "./dialog.js"
import {told} from "./toast.js"

/**
 * @param {object} properties
 * @param {any} properties.title
 * @param {any} properties.action what the button says
 * @param {(form: FormData) => Promise<unknown>} properties.send
 * @param {() => void} properties.onClose
 * @param {string} [properties.done] what is told then
 * @param {any} [properties.children] the fields
 */
export const FormDialog = ({title, onClose, ...form}) => html`
  <${Dialog} title=${title} onClose=${onClose}><${Form} ...${form} onDone=${onClose} onCancel=${onClose} /><//>`

/** The form alone, for panels. */
export function Form({action, send, done = t("state.saved"), onDone, onCancel, children}) {
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const submit = async event => {
    event.preventDefault()
    setBusy(true)
    try {
      await send(new FormData(event.target))
      setError(undefined)
      told(done)
      onDone?.()
    } catch (failed) {
      setError(failed)
    } finally {
      setBusy(false)
    }
  }
  return html`
    <form onSubmit=${submit}>${children}
      <${Failure} error=${error} />
      <div class="actions">${onCancel && html`<button type="button" class="quiet" onClick=${onCancel}>${t("action.cancel")}</button>`}
        <button class="primary" disabled=${busy}>${action}</button></div>
    </form>`
}
