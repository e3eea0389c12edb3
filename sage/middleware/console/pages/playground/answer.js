/** A model's answer: its text, its reasoning, its tool calls, what it drew on, and what it took. */
import {CopyButton} from "../../components/copyable.js"
import {Markdown} from "../../components/markdown.js"
import {Failure} from "../../components/notice.js"
import {duration, money, number} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {Memories, Sources} from "./sources.js"
import {ToolCalls, ToolRuns} from "./tool_calls.js"

/** @param {{answer: import("./conversation.js").Answer, onResults?: (results: string[]) => void}} properties */
export const Answer = ({answer, onResults}) => html`
  <article class="answer" aria-label=${answer.model} aria-busy=${!answer.done}>
    <header><span class="name"><strong>${answer.model}</strong>
      ${answer.facts.deployment && html` <span class="dim">${answer.facts.deployment}</span>`}</span>${answer.done && answer.text && html`<${CopyButton} text=${answer.text} />`}</header>
    <${Memories} memories=${answer.memories} />
    ${answer.reasoning && html`<details open=${!answer.text && !answer.done}><summary>${t("playground.reasoning")}</summary><p class="reasoning">${answer.reasoning}</p></details>`}
    <${ToolRuns} runs=${answer.runs} />
    <${Markdown} text=${answer.text} done=${answer.done} />
    ${answer.calls.length > 0 && html`<${ToolCalls} calls=${answer.calls} onResults=${answer.done && !answer.error ? onResults : undefined} />`}
    ${!answer.done && !answer.text && !answer.reasoning && html`<p class="waiting" role="status">${t("playground.waiting")}</p>`}
    ${answer.done && !answer.error && !answer.stopped && !answer.text && answer.calls.length === 0 && html`<p class="dim">${t("playground.nothing")}</p>`}
    ${answer.stopped && html`<p class="dim">${t("playground.stopped")}</p>`}
    ${answer.finish === "length" && html`<p class="dim">${t("playground.length")}</p>`}
    ${answer.warnings.map(warning => html`<p class="note busy-text" key=${warning}>${warning}</p>`)}
    <${Failure} error=${answer.error} />
    <${Sources} sources=${answer.sources} />
    ${answer.done && html`<${Facts} facts=${answer.facts} />`}
  </article>`

const Facts = ({facts}) => html`
  <dl class="took">
    ${facts.first !== undefined && html`<div><dt>${t("playground.first")}</dt><dd>${duration(facts.first)}</dd></div>`}
    <div><dt>${t("playground.total")}</dt><dd>${duration(facts.total)}</dd></div>
    ${facts.rate !== undefined && html`<div><dt>${t("playground.rate")}</dt><dd>${number(Math.round(facts.rate * 10) / 10)} ${t("unit.tokens_per_second")}</dd></div>`}
    ${facts.usage && html`<div><dt>${t("usage.tokens")}</dt><dd>${number(facts.usage.prompt_tokens)} → ${number(facts.usage.completion_tokens)}</dd></div>`}
    ${facts.cost !== undefined && html`<div class="cost"><dt>${t("usage.cost")}</dt>
      <dd>${facts.cost === null ? html`<span title=${t("playground.unpriced_hint")}>${t("playground.unpriced")}</span>` : money(facts.cost)}</dd></div>`}
    ${facts.request && may.peek()("usage") && html`<div><dt class="sr-only">${t("page.requests")}</dt><dd><a href=${`#/requests?id=${encodeURIComponent(facts.request)}`}>${t("playground.request")}</a></dd></div>`}
  </dl>`
