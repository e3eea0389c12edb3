/** A modal dialog of the browser's own: focus stays in it, Escape closes it. */
import {html, useEffect, useRef, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {Failure} from "./notice.js"

export function Dialog({title, onClose, children}) {
  const dialog = useRef(null)
  useEffect(() => {
    dialog.current.showModal()
    return () => dialog.current?.close()
  }, [])
  return html`
    <dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${onClose} onCancel=${onClose}>
      <h2 id="dialog-title">${title}</h2>
      ${children}
    </dialog>`
}

/** Asks once before something is lost; `lost` says what. */
export function Confirm({title, lost, action, onConfirm, onClose}) {
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const confirm = async () => {
    setBusy(true)
    try {
      await onConfirm()
      onClose()
    } catch (failed) {
      setError(failed)
      setBusy(false)
    }
  }
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <p>${lost}</p>
      <${Failure} error=${error} />
      <div class="actions">
        <button class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
        <button class="danger" disabled=${busy} onClick=${confirm}>${action}</button>
      </div>
    <//>`
}
