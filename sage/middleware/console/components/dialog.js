/** A modal dialog of the browser's own: focus stays in it, Escape closes it. */
import {html, useLayoutEffect, useMemo, useRef, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {Failure} from "./notice.js"

let made = 0

/**
 * What makes a `<dialog>` modal for as long as it is drawn: its `properties`, and `titled`, the id of the element that names it.
 * @param {() => void} onClose is called when the user closes it
 */
export function useModal(onClose) {
  const dialog = useRef(null)
  const titled = useMemo(() => `dialog-${(made += 1)}`, [])
  useLayoutEffect(() => {
    const element = dialog.current
    element.showModal()
    return () => { dialog.current = null; element.close() } // the browser gives the focus back to what had it before
  }, [])
  const cancel = event => {
    if (event.target !== dialog.current) return // of a file picker or a dialog in it
    event.preventDefault()
    onClose()
  }
  const closed = event => event.target === dialog.current && onClose() // the browser heeds no second refusal to close
  return {titled, properties: {ref: dialog, "aria-labelledby": titled, onCancel: cancel, onClose: closed}}
}

/** @param {{title: any, onClose: () => void, children?: any}} properties */
export function Dialog({title, onClose, children}) {
  const modal = useModal(onClose)
  return html`
    <dialog ...${modal.properties}>
      <h2 id=${modal.titled} class="name">${title}</h2>
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
      <p class="name">${lost}</p>
      <${Failure} error=${error} />
      <div class="actions">
        <button class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
        <button class="danger" disabled=${busy} onClick=${confirm}>${action}</button>
      </div>
    <//>`
}
