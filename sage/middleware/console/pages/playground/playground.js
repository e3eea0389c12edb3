/** Talking to models: one, or two side by side, with what each answer took. */
import {Failure, Waiting} from "../../components/notice.js"
import {Icon} from "../../components/icon.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {Answer} from "./answer.js"
import {ask} from "./call.js"
import {Options} from "./options.js"

export function Playground() {
  const {data, error, reload} = useLoaded(stop => get("/models", stop))
  if (!data) return html`<h1>${t("page.playground")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const names = data.models.filter(model => model.deployments.length > 0).map(model => model.name)
  return html`<${Talk} names=${names} />`
}

function Talk({names}) {
  const [chosen, setChosen] = useState([names.find(name => !/embed|rerank|minilm|-e5-/i.test(name)) ?? names[0] ?? ""])
  const [options, setOptions] = useState({system: "", temperature: "", max_tokens: ""})
  const [turns, setTurns] = useState([])
  const [draft, setDraft] = useState("")
  const [stop, setStop] = useState(null)
  const bottom = useRef(null)

  const send = async event => {
    event.preventDefault()
    const question = draft.trim()
    if (!question || stop) return
    const running = new AbortController()
    const turn = {question, answers: chosen.map(model => ({model, text: "", reasoning: "", calls: [], facts: {}}))}
    const earlier = turns
    const show = () => setTurns([...earlier, {...turn, answers: [...turn.answers]}])
    setDraft("")
    setStop(running)
    show()
    bottom.current?.scrollIntoView({block: "end"})
    await Promise.all(turn.answers.map((_, side) => ask({earlier, turn, side, options, stop: running.signal, show})))
    setStop(null)
  }
  return html`
    <div class="title-row"><h1>${t("page.playground")}</h1>
      <button class="quiet" disabled=${turns.length === 0} onClick=${() => setTurns([])}>${t("playground.clear")}</button></div>
    <${Options} names=${names} chosen=${chosen} setChosen=${setChosen} options=${options} setOptions=${setOptions}
      turns=${turns} draft=${draft} />
    <div class="talk" role="log" aria-label=${t("playground.log")}>
      ${turns.length === 0 && html`<p class="dim">${t("playground.hint")}</p>`}
      ${turns.map((turn, index) => html`
        <div class="turn" key=${index}>
          <div class="question">${turn.question}</div>
          <div class=${`answers sides-${turn.answers.length}`}>
            ${turn.answers.map(answer => html`<${Answer} key=${answer.model} answer=${answer} />`)}
          </div>
        </div>`)}
      <div ref=${bottom} />
    </div>
    <form class="ask" onSubmit=${send}>
      <label class="sr-only" for="question">${t("playground.question")}</label>
      <textarea id="question" rows="2" value=${draft} placeholder=${t("playground.question")}
        onInput=${event => setDraft(event.target.value)}
        onKeyDown=${event => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event)} />
      ${stop
        ? html`<button type="button" onClick=${() => stop.abort()}><${Icon} name="stop" /> ${t("playground.stop")}</button>`
        : html`<button class="primary" disabled=${!draft.trim() || !chosen[0]}><${Icon} name="send" /> ${t("playground.send")}</button>`}
    </form>`
}
