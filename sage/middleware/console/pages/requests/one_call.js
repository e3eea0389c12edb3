/** One call: its way, what it used, and its texts where the team keeps them. */
import {Facts} from "../../components/facts.js"
import {CopyButton} from "../../components/copyable.js"
import {KeyName} from "../../components/key_name.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {get} from "../../core/api.js"
import {duration, exactTime, money, number} from "../../core/format.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {queryOf} from "../../core/query.js"
import {address} from "../../core/router.js"
import {hasAccounts, may} from "../../core/session.js"
import {Waterfall, reason} from "./waterfall.js"

const NEAR = 1 // seconds around the time in the address in which the call is looked for

/**
 * @param {object} properties
 * @param {string} properties.id
 * @param {string} properties.at when it ended, in Unix seconds; empty where nobody knows
 * @param {any} [properties.known] the call, where it is loaded already
 * @param {() => void} properties.onClose
 */
export function OneCall({id, at, known, onClose}) {
  const {data, error, reload} = useLoaded(async stop => known ?? await find(id, at, stop), [id, at, known])
  const call = known ?? data
  return html`
    <${Panel} title=${t("requests.one")} onClose=${onClose}>
      <${Failure} error=${error} retry=${reload} />
      ${call === null ? html`<p class="notice">${t("requests.gone")}</p>` : !call ? !error && html`<${Waiting} />` : html`<${Call} call=${call} />`}
    <//>`
}

async function find(id, at, stop) {
  const near = at ? {from: Number(at) - NEAR, to: Number(at) + NEAR} : {}
  const {requests} = await get(`/usage/requests?${queryOf({id, limit: 1, ...near})}`, stop)
  return requests[0] ?? null
}

function Call({call}) {
  const ends = call.steps.filter(step => step.code)
  const unit = (value, text) => html`${value} <span class="unit">${text}</span>`
  return html`
    <dl class="tiles">
      <div><dt>${t("requests.status")}</dt><dd><span class=${`badge ${call.status < 400 ? "good" : "bad"}`}>${call.status}</span></dd></div>
      <div><dt>${t("requests.took")}</dt><dd>${duration(call.ms)}</dd></div>
      ${call.first_token_ms !== null && html`<div><dt>${t("requests.first")}</dt><dd>${duration(call.first_token_ms)}</dd></div>`}
      <div><dt>${t("usage.tokens")}</dt><dd>${number(call.prompt_tokens)} → ${unit(number(call.completion_tokens), call.estimated ? t("requests.estimated") : "")}</dd></div>
      <div><dt>${t("usage.cost")}</dt><dd>${call.priced ? money(call.cost) : html`<span class="unit">${t("requests.unpriced")}</span>`}</dd></div>
    </dl>
    ${ends.length > 0 && call.status >= 400 && html`<p class="notice bad">${reason(ends.at(-1))}</p>`}
    <h3>${t("requests.way")}</h3>
    <${Waterfall} call=${call} />
    <h3>${t("requests.facts")}</h3>
    <${Facts} items=${[
      [t("requests.time"), exactTime(call.time)],
      [t("call.id"), call.id && html`<code>${call.id}</code> <${CopyButton} text=${call.id} />`],
      [t("call.model"), call.model],
      [t("call.deployment"), call.deployment],
      [t("call.upstream_model"), call.upstream_model],
      [t("call.operation"), call.operation + (call.stream ? ` · ${t("call.stream")}` : "")],
      [t("call.user"), call.user],
      [t("call.tenant"), call.tenant],
      [t("call.key"), call.key && html`<${KeyName} id=${call.key} name=${call.key_name} />`],
      [t("call.tags"), call.tags.join(", ")],
      [t("call.attempts"), number(call.attempts)],
      [t("call.cached_tokens"), number(call.cached_tokens)],
      [t("call.reasoning_tokens"), number(call.reasoning_tokens)],
    ]} />
    ${call.id && may.peek()("tenant:admin") && html`<${Texts} id=${call.id} />`}`
}

function Texts({id}) {
  const {data, error, reload} = useLoaded(stop => get(`/usage/requests/${encodeURIComponent(id)}/texts`, stop), [id])
  return html`
    <h3>${t("requests.texts")}</h3>
    <${Failure} error=${error} retry=${reload} />
    ${data && data.texts.length === 0 && html`<p class="dim">${t("requests.no_texts")}
      ${hasAccounts.peek() && html` <a href=${address("people")}>${t("page.people")}</a>`}</p>`}
    ${data?.texts.map(({prompt, answer}, index) => html`<div key=${index}>
      <h4>${t("requests.prompt")}</h4><pre class="text" tabindex="0">${prompt}</pre>
      <h4>${t("requests.answer")}</h4><pre class="text" tabindex="0">${answer}</pre></div>`)}`
}
