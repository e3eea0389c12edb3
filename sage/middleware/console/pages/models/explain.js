/** Which deployment would answer a request now, drawn: in which order they are asked, and why not the others. */
import {Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {Icon} from "../../components/icon.js"
import {post} from "../../core/api.js"
import {duration, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {modelPath} from "./model_path.js"

const message = content => ({messages: [{role: "user", content}]})
const EXAMPLES = {
  chat: message("Hello"),
  stream: {...message("Hello"), stream: true},
  tools: {...message("How warm is it in Paris?"), tools: [{type: "function", function: {name: "get_weather", parameters: {type: "object", properties: {city: {type: "string"}}}}}]},
  picture: message([{type: "text", text: "What is this?"}, {type: "image_url", image_url: {url: "data:image/png;base64,"}}]),
  embeddings: {input: "Hello"},
}

export function Explain({name}) {
  const [text, setText] = useState(JSON.stringify(EXAMPLES.chat, null, 2))
  const [found, setFound] = useState(null)
  const [error, setError] = useState(undefined)
  const ask = async event => {
    event.preventDefault()
    setError(undefined)
    try {
      setFound(await post(`${modelPath(name)}/explain`, JSON.parse(text)))
    } catch (problem) {
      setFound(null)
      setError(problem)
    }
  }
  return html`
    <h2>${t("explain.title")}</h2>
    <p class="dim">${t("explain.intro")}</p>
    <div class="explain">
      <form onSubmit=${ask}>
        <${Field} label=${t("explain.example")}>${field => html`
          <select ...${field} onChange=${event => setText(JSON.stringify(EXAMPLES[event.target.value], null, 2))}>
            ${Object.keys(EXAMPLES).map(each => html`<option key=${each} value=${each}>${t(`explain.${each}`)}</option>`)}</select>`}<//>
        <${Field} label=${t("explain.request")}>${field => html`
          <textarea ...${field} class="code" rows="9" spellcheck="false" value=${text} onInput=${event => setText(event.target.value)} />`}<//>
        <button>${t("explain.ask")}</button>
      </form>
      <div aria-live="polite"><${Failure} error=${error} />${found && html`<${Route} found=${found} />`}</div>
    </div>`
}

/** The tiers from top to bottom: those of the model by their priority, then those of its fallbacks. */
function Route({found}) {
  const chosen = found.candidates.find(each => each.deployment === found.chosen)
  return html`
    <p class=${`notice ${found.chosen ? "good" : "bad"}`}>
      ${found.chosen ? html`<strong>${found.chosen}</strong> · <span title=${found.reason}>${whyOf(found, chosen)}</span>` : found.reason}</p>
    <ol class="route">${tiersOf(found.candidates).map(({of, priority, members}) => html`
      <li key=${`${of} ${priority}`}>
        <h3>${of === found.model ? t("explain.priority", {priority}) : t("explain.fallback", {name: of, priority})}</h3>
        <ul>${members.map(each => html`<${Candidate} key=${each.deployment} each=${each} members=${members} isChosen=${each === chosen} isSticky=${each.deployment === found.sticky} />`)}</ul>
      </li>`)}</ol>
    ${found.faults.map(fault => html`<p class="notice bad" key=${fault}>${fault}</p>`)}
    <dl class="took">
      <div><dt>${t("explain.retries")}</dt><dd>${number(found.retries.allowed)}</dd></div>
      <div><dt>${t("models.waiting")}</dt><dd>${number(found.waiting)}</dd></div>
      <div><dt>${t("explain.deadline")}</dt><dd>${duration(found.deadline * 1000)}</dd></div>
    </dl>`
}

function Candidate({each, members, isChosen, isSticky}) {
  const whole = members.filter(other => other.usable).reduce((sum, other) => sum + other.weight, 0)
  const share = each.usable && whole > 0 ? each.weight / whole : 0
  const busy = each.max_concurrency === null ? number(each.in_flight) : `${number(each.in_flight)} / ${number(each.max_concurrency)}`
  return html`
    <li class=${`candidate ${isChosen ? "chosen" : each.usable ? "" : "unusable"}`}>
      <div class="candidate-head">${isChosen && html`<${Icon} name="send" />`}<strong class="name">${each.deployment}</strong>
        <span class=${`badge ${each.usable ? "good" : "bad"}`} title=${each.reason}>${t(`explain.${each.code}`)}</span>
        ${isSticky && html`<span class="badge calm" title=${t("explain.sticky_hint")}>${t("explain.sticky")}</span>`}</div>
      <div class="share" role="img" aria-label=${t("explain.share", {share: Math.round(share * 100)})}><span style=${{width: `${share * 100}%`}} /></div>
      <p class="dim">${t("explain.share", {share: Math.round(share * 100)})} · ${t("models.weight")} ${number(each.weight)} · ${t("models.running")} ${busy}${each.free_in ? ` · ${t("explain.free_in", {time: duration(each.free_in * 1000)})}` : ""}</p>
      ${each.breaker.last_failure && html`<p class="dim name">${t("explain.last_failure")} ${each.breaker.last_failure}</p>`}
    </li>`
}

/** The reason of the choice in the user's language: the rules of `sage/middleware/dispatch/balancing.py`. */
function whyOf({model, candidates, sticky}, chosen) {
  const usable = candidates.filter(each => each.of === chosen.of && each.usable)
  const tier = usable.filter(each => each.priority === chosen.priority)
  const equals = tier.filter(each => each.weight === chosen.weight)
  const rule = usable.length === 1 ? "only" : tier.length === 1 ? "lowest" : sticky === chosen.deployment ? "sticky_hint" : equals.length === 1 ? "by_weight" : "of_equals"
  const words = t(`explain.${rule}`, {weight: number(chosen.weight), whole: number(tier.reduce((sum, each) => sum + each.weight, 0)), count: equals.length})
  return chosen.of === model ? words : t("explain.of_fallback", {name: chosen.of, words})
}

/** Candidates of one model and priority; what can be asked first, the heaviest first. */
function tiersOf(candidates) {
  const tiers = []
  for (const each of candidates) {
    let tier = tiers.find(other => other.of === each.of && other.priority === each.priority)
    if (!tier) tiers.push(tier = {of: each.of, priority: each.priority, members: []})
    tier.members.push(each)
  }
  const models = [...new Set(candidates.map(each => each.of))]
  tiers.sort((a, b) => models.indexOf(a.of) - models.indexOf(b.of) || a.priority - b.priority)
  for (const tier of tiers) tier.members.sort((a, b) => Number(b.usable) - Number(a.usable) || b.weight - a.weight)
  return tiers
}
