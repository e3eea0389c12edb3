/** Talking to models: one, or two side by side, with what each answer took. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Icon} from "../../components/icon.js"
import {get} from "../../core/api.js"
import {html, useEffect, useLoaded, useMemo, useRef, useSignal, useState} from "../../core/html.js"
import {language, t} from "../../core/language.js"
import {chatModels} from "./chat_models.js"
import {Composer} from "./composer.js"
import {choose, clear, running, send, talk, waitsForTools} from "./conversation.js"
import {isComplete} from "./json_fields.js"
import {RequestCode} from "./request_dialog.js"
import {Settings} from "./settings.js"
import {Turn} from "./turn.js"

export function Playground() {
  const {data, error, reload} = useLoaded(stop => get("/models", stop))
  if (!data) return html`<h1>${t("page.playground")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const names = chatModels(data.models)
  return names.length === 0
    ? html`<h1>${t("page.playground")}</h1><${Empty} title=${t("models.none")}><p>${t("models.none_hint")}</p><a class="button" href="#/models">${t("page.models")}</a><//>`
    : html`<${Talk} names=${names} />`
}

function Talk({names}) {
  const {chosen: wanted, options, turns} = useSignal(talk)
  const stop = useSignal(running)
  const [draft, setDraft] = useState({question: "", pictures: []})
  const [showing, setShowing] = useState(false)
  const [open, setOpen] = useState(false)
  const chosen = wanted.length > 0 && wanted.every(name => names.includes(name))
    ? wanted : [names[0]]
  useEffect(() => { if (chosen !== wanted) choose(chosen) })
  // Not drawn anew while an answer comes in: there may be ten thousand models to choose from.
  const settings = useMemo(() => html`<${Settings} names=${names} chosen=${chosen} options=${options} />`, [names, chosen, options, language.peek()])
  const waits = !stop && waitsForTools(turns)
  const earlier = turns.flatMap(turn => turn.pictures)
  return html`
    <div class="title-row"><h1>${t("page.playground")}</h1>
      <button class="quiet narrow-only" aria-expanded=${open} aria-controls="settings" onClick=${() => setOpen(!open)}>
        <${Icon} name="sliders" /> ${t("playground.settings")}</button>
      <button class="quiet" disabled=${!isComplete(options)} onClick=${() => setShowing(true)}><${Icon} name="connect" /> ${t("playground.code")}</button>
      <button class="quiet" disabled=${turns.length === 0} onClick=${clear}>${t("playground.clear")}</button></div>
    <div class="playground">
      <aside id="settings" class=${open ? "open" : ""} aria-label=${t("playground.settings")}>
        ${settings}</aside>
      <section class="talk-column" aria-label=${t("playground.log")}>
        <${Log} turns=${turns} busy=${!!stop} />
        ${waits && html`<p class="dim" role="status">${t("playground.tools_first")}</p>`}
        <${Composer} id="question" label=${t("playground.question")} earlier=${earlier} blocked=${!!stop || waits || !isComplete(options)}
          onSend=${send} onDraft=${(question, pictures) => setDraft({question, pictures})}
          actions=${({ready}) => stop
            ? html`<button type="button" onClick=${() => stop.abort()}><${Icon} name="stop" /> ${t("playground.stop")}</button>`
            : html`<button class="primary" disabled=${!ready}><${Icon} name="send" /> ${t("playground.send")}</button>`} />
      </section>
    </div>
    ${showing && html`<${RequestCode} chosen=${chosen} options=${options} turns=${turns} draft=${draft} onClose=${() => setShowing(false)} />`}`
}

/** Follows what comes in, unless the reader has scrolled away from the end. */
function Log({turns, busy}) {
  const box = useRef(null)
  const follows = useRef(true)
  const last = useRef(0)
  const look = () => {
    const {scrollTop, scrollHeight, clientHeight} = box.current
    if (scrollTop + clientHeight > scrollHeight - 60) follows.current = true
    else if (scrollTop < last.current) follows.current = false
    last.current = scrollTop
  }
  useEffect(() => { follows.current = true }, [turns.length])
  useEffect(() => {
    if (follows.current) box.current.scrollTop = box.current.scrollHeight
  }, [turns, busy])
  return html`
    <div class="talk" ref=${box} onScroll=${look} role="log" aria-label=${t("playground.log")} tabindex="0">
      ${turns.length === 0 && html`<div class="talk-start"><${Icon} name="playground" /><p>${t("playground.hint")}</p>
        <p><button type="button" disabled=${busy} onClick=${() => send(t("playground.example_question"), [])}>${t("playground.example_question")}</button></p>
        <p><a href="#/connect">${t("playground.connect")}</a></p></div>`}
      ${turns.map((turn, index) => html`
        <${Turn} key=${turn.id} turn=${turn} busy=${busy} isLast=${index === turns.length - 1}
          earlier=${turns.slice(0, index).flatMap(each => each.pictures)} />`)}
    </div>`
}
