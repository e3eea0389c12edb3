/** What models are asked with: who, how, and what is put before them. */
import {Failure} from "../../components/notice.js"
import {Field} from "../../components/field.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {choose, setOption} from "./conversation.js"
import {faultOf, TOOL_EXAMPLE} from "./json_fields.js"

/** @param {{names: string[], chosen: string[], options: any}} properties */
export function Settings({names, chosen, options}) {
  const second = names.find(name => name !== chosen[0]) ?? chosen[0]
  return html`
    ${chosen.map((name, side) => html`
      <${Field} key=${side} label=${t(side === 0 ? "playground.model" : "playground.second")}>${field => html`
        <select ...${field} value=${name} onChange=${event => choose(chosen.with(side, event.target.value))}>
          ${names.map(each => html`<option key=${each} value=${each}>${each}</option>`)}</select>`}<//>`)}
    <button class="quiet wide" onClick=${() => choose(chosen.length === 1 ? [chosen[0], second] : chosen.slice(0, 1))}>
      ${t(chosen.length === 1 ? "playground.compare" : "playground.one")}</button>
    <${Section} title=${t("playground.system")} inUse=${options.system}>${() => html`
      <label class="sr-only" for="system">${t("playground.system")}</label>
      <textarea id="system" rows="4" value=${options.system} onInput=${event => setOption("system", event.target.value)} />`}<//>
    <${Section} title=${t("playground.parameters")} inUse=${PARAMETERS.some(name => options[name] !== "")}>${() => html`<${Parameters} options=${options} />`}<//>
    ${may.peek()("search") && html`
      <${Section} title=${t("playground.from_collection")} inUse=${options.collection}>${() => html`<${Collection} options=${options} />`}<//>`}
    ${may.peek()("memory") && html`
      <${Section} title=${t("playground.memory")} inUse=${options.session}>${() => html`<${Memory} options=${options} />`}<//>`}
    <${Section} title=${t("playground.tools")} inUse=${options.tools.trim() || options.mcp.length > 0}>${() => html`<${Tools} options=${options} />`}<//>`
}

/** A part that is drawn when it is opened; a sign tells that something in it is set. */
function Section({title, inUse, children}) {
  const [open, setOpen] = useState(!!inUse)
  return html`
    <details open=${open} onToggle=${event => setOpen(event.target.open)}>
      <summary>${title}${inUse ? html` <span class="badge good">${t("playground.set")}</span>` : ""}</summary>
      ${open && html`<div class="section">${children()}</div>`}
    </details>`
}

const set = name => event => setOption(name, event.target.type === "checkbox" ? event.target.checked : event.target.value)

const Input = ({name, options, label, hint, error, ...more}) => html`
  <${Field} label=${label} hint=${hint} error=${error}>${field => html`
    <input ...${field} ...${more} name=${name} value=${options[name]} onInput=${set(name)} />`}<//>`

/** `values` are pairs of a value and its text. */
const Choice = ({name, options, label, values}) => html`
  <${Field} label=${label}>${field => html`
    <select ...${field} name=${name} value=${options[name]} onChange=${set(name)}>
      ${values.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select>`}<//>`

const Json = ({name, options, label, hint}) => html`
  <${Field} label=${label} hint=${hint} error=${faultOf(name, options[name])}>${field => html`
    <textarea ...${field} name=${name} class="code" rows="8" spellcheck="false" value=${options[name]} onInput=${set(name)} />`}<//>`

const PARAMETERS = ["temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty", "stop",
  "reasoning_effort", "format"]
const asIs = (...values) => [["", t("playground.default")], ...values.map(value => [value, value])]

const Parameters = ({options}) => html`
  <div class="pair">
    <${Input} name="temperature" label=${t("playground.temperature")} options=${options} type="number" min="0" max="2" step="0.1" />
    <${Input} name="top_p" label="Top P" options=${options} type="number" min="0" max="1" step="0.05" />
    <${Input} name="max_tokens" label=${t("playground.max_tokens")} options=${options} type="number" min="1" step="1" />
    <${Input} name="seed" label=${t("playground.seed")} options=${options} type="number" step="1" />
    <${Input} name="frequency_penalty" label=${t("playground.frequency_penalty")} options=${options} type="number" min="-2" max="2" step="0.1" />
    <${Input} name="presence_penalty" label=${t("playground.presence_penalty")} options=${options} type="number" min="-2" max="2" step="0.1" />
    <${Choice} name="reasoning_effort" label=${t("playground.effort")} options=${options} values=${asIs("none", "minimal", "low", "medium", "high", "xhigh")} />
    <${Choice} name="format" label=${t("playground.format")} options=${options}
      values=${[["", t("playground.text")], ["json_object", "JSON"], ["json_schema", t("playground.schema")]]} />
  </div>
  ${options.format === "json_schema" && html`<${Json} name="schema" label=${t("playground.schema")} options=${options} />`}
  <${Field} label=${t("playground.stop_at")} hint=${t("playground.stop_hint")}>${field => html`
    <textarea ...${field} name="stop" rows="2" value=${options.stop} onInput=${set("stop")} />`}<//>`

function Collection({options}) {
  const {data, error} = useLoaded(stop => get("/collections", stop))
  if (!data) return html`<${Failure} error=${error} />`
  if (data.collections.length === 0) return html`<p class="dim">${t("playground.no_collections")} <a href="#/search">${t("page.search")}</a></p>`
  const names = data.collections.map(each => [each.name, each.name])
  return html`
    <${Choice} name="collection" label=${t("playground.collection")} options=${options} values=${[["", t("playground.no_collection")], ...names]} />
    ${options.collection && html`<div class="pair">
      <${Input} name="top_k" label=${t("playground.top_k")} options=${options} type="number" min="1" max="50" step="1" placeholder="5" />
      <${Choice} name="mode" label=${t("playground.search_mode")} options=${options} values=${asIs("hybrid", "dense", "bm25")} />
    </div>`}`
}

function Memory({options}) {
  const {data, error} = useLoaded(stop => get("/memory/sessions?limit=200", stop))
  return html`
    <${Failure} error=${error} />
    <${Input} name="session" label=${t("memory.session")} hint=${t("playground.session_hint")} options=${options} list="sessions" maxlength="256" autocomplete="off" />
    <datalist id="sessions">${(data?.sessions ?? []).map(({session_id}) => html`<option key=${session_id} value=${session_id} />`)}</datalist>
    ${options.session && html`
      <${Input} name="user" label=${t("playground.person")} hint=${t("playground.person_hint")} options=${options} maxlength="256" autocomplete="off" />
      <label class="check"><input type="checkbox" checked=${options.recall} onChange=${set("recall")} /> ${t("playground.recall")}</label>
      <label class="check"><input type="checkbox" checked=${options.store} onChange=${set("store")} /> ${t("playground.store")}</label>`}`
}

const Tools = ({options}) => html`
  <${Json} name="tools" label=${t("playground.own_tools")} hint=${t("playground.own_tools_hint")} options=${options} />
  <div class="actions start">
    <button class="quiet small" onClick=${() => setOption("tools", TOOL_EXAMPLE)}>${t("playground.example")}</button></div>
  ${options.tools.trim() && html`<${Choice} name="tool_choice" label=${t("playground.tool_choice")} options=${options} values=${asIs("auto", "required", "none")} />`}
  ${may.peek()("tools") && html`<${Servers} chosen=${options.mcp} />`}`

/** MCP servers behind the gateway, whose tools it runs itself. */
function Servers({chosen}) {
  const {data, error} = useLoaded(stop => get("/mcp/servers", stop))
  const toggle = name => setOption("mcp", chosen.includes(name) ? chosen.filter(each => each !== name) : [...chosen, name])
  if (/** @type {any} */ (error)?.status === 404 || data?.servers.length === 0) return null
  return html`
    <${Failure} error=${error} />
    ${data && html`<fieldset><legend>${t("playground.servers")}</legend>
      ${data.servers.map(({name, state}) => html`
        <label class="check" key=${name}><input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} />
          ${name}${state === "up" ? "" : html` <span class="dim">(${t(`state.${state}`)})</span>`}</label>`)}
    </fieldset>`}`
}
