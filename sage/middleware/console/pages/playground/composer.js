/** Where a question is written: text, and pictures that are picked, pasted or dropped. */
import {Icon} from "../../components/icon.js"
import {html, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {KINDS, readPictures} from "./pictures.js"

/**
 * @param {object} properties
 * @param {string} properties.id
 * @param {string} properties.label
 * @param {string} [properties.question] what stands there at first
 * @param {import("./conversation.js").Picture[]} [properties.pictures]
 * @param {import("./conversation.js").Picture[]} properties.earlier pictures of the conversation
 * @param {(question: string, pictures: any[]) => void} properties.onSend
 * @param {(controls: {ready: boolean}) => any} properties.actions the buttons
 * @param {boolean} [properties.blocked] whether nothing can be sent now
 * @param {(question: string, pictures: any[]) => void} [properties.onDraft]
 */
export function Composer({question = "", pictures: first = [], earlier, onSend, actions, blocked, onDraft, label, id}) {
  const [text, setText] = useState(question)
  const [pictures, setPictures] = useState(first)
  const [faults, setFaults] = useState([])
  const [over, setOver] = useState(false)
  const picker = useRef(null)
  const [reading, setReading] = useState(0)
  // What stands there now: while pictures are read, which takes seconds for large ones, people go on typing.
  const now = useRef({words: question, shown: first})
  const read = useRef(Promise.resolve())
  const draft = (words, shown) => { now.current = {words, shown}; setText(words); setPictures(shown); onDraft?.(words, shown) }
  const addNow = async files => {
    const all = [...earlier, ...now.current.shown]
    const {pictures: more, faults} = await readPictures(files, all.reduce((sum, each) => sum + each.size, 0), all.map(each => each.name))
    setFaults(faults)
    draft(now.current.words, [...now.current.shown, ...more])
  }
  const add = files => {
    setReading(count => count + 1)
    read.current = read.current.then(() => addNow(files)).finally(() => setReading(count => count - 1))
  }
  const ready = !blocked && reading === 0 && (text.trim() !== "" || pictures.length > 0)
  const send = event => {
    event.preventDefault()
    if (!ready) return
    onSend(text.trim(), pictures)
    setFaults([])
    draft("", [])
  }
  const onPaste = event => {
    const files = [...event.clipboardData.files]
    if (files.length === 0) return
    event.preventDefault()
    add(files)
  }
  const onDrop = event => {
    event.preventDefault()
    setOver(false)
    add([...event.dataTransfer.files])
  }
  return html`
    <form class=${over ? "composer over" : "composer"} onSubmit=${send} onPaste=${onPaste} onDrop=${onDrop}
          onDragOver=${event => { event.preventDefault(); setOver(true) }} onDragLeave=${() => setOver(false)}>
      <${Pictures} pictures=${pictures} onRemove=${name => draft(text, pictures.filter(each => each.name !== name))} />
      ${pictures.filter(each => each.shrunk).map(({name, shrunk}) => html`<p class="note dim name" role="status" key=${name}>${t("playground.shrunk", {name, how: shrunk})}</p>`)}
      ${faults.map(fault => html`<p class="bad-text note" role="alert" key=${fault}>${fault}</p>`)}
      <label class="sr-only" for=${id}>${label}</label>
      <textarea id=${id} rows="2" value=${text} placeholder=${label} onInput=${event => draft(event.target.value, pictures)}
        onKeyDown=${event => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event)} />
      <div class="composer-bar">
        <input ref=${picker} type="file" accept=${KINDS.join()} multiple hidden
          onChange=${event => { add([...event.target.files]); event.target.value = "" }} />
        <button type="button" class="quiet" onClick=${() => picker.current.click()}><${Icon} name="picture" /> ${t("playground.add_picture")}</button>
        <span class="spring" />
        ${actions({ready})}
      </div>
    </form>`
}

/** Thumbnails; with `onRemove` each can be taken out again. */
export const Pictures = ({pictures, onRemove}) => pictures.length > 0 && html`
  <ul class="thumbnails">${pictures.map(({name, url, shrunk}) => html`
    <li key=${name}><img src=${url} alt=${name} title=${shrunk ? t("playground.shrunk", {name, how: shrunk}) : name} />
      ${onRemove && html`<button type="button" class="small" aria-label=${t("playground.remove_picture", {name})}
        onClick=${() => onRemove(name)}><${Icon} name="close" /></button>`}</li>`)}</ul>`
