/** A model's answer: its text, its reasoning, its tool calls, and what it took. */
import {CopyButton} from "../../components/copyable.js"
import {Markdown} from "../../components/markdown.js"
import {Failure} from "../../components/notice.js"
import {duration, number} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

export const Answer = ({answer}) => html`
  <article class="answer" aria-label=${answer.model} aria-busy=${!answer.done}>
    <header><strong>${answer.model}</strong>${answer.done && answer.text && html`<${CopyButton} text=${answer.text} />`}</header>
    ${answer.reasoning && html`<details><summary>${t("playground.reasoning")}</summary><p class="reasoning">${answer.reasoning}</p></details>`}
    <${Markdown} text=${answer.text} />
    ${answer.calls.map((call, index) => html`<pre class="tool" key=${index}>${call.name}(${call.arguments})</pre>`)}
    ${!answer.done && !answer.text && html`<p class="waiting" role="status">${t("playground.waiting")}</p>`}
    ${answer.stopped && html`<p class="dim">${t("playground.stopped")}</p>`}
    ${answer.finish === "length" && html`<p class="dim">${t("playground.length")}</p>`}
    <${Failure} error=${answer.error} />
    ${answer.done && html`<${Facts} facts=${answer.facts} />`}
  </article>`

const Facts = ({facts}) => html`
  <dl class="took">
    ${facts.first !== undefined && html`<div><dt>${t("playground.first")}</dt><dd>${duration(facts.first)}</dd></div>`}
    <div><dt>${t("playground.total")}</dt><dd>${duration(facts.total)}</dd></div>
    ${facts.rate !== undefined && html`<div><dt>${t("playground.rate")}</dt><dd>${number(Math.round(facts.rate * 10) / 10)} ${t("unit.tokens_per_second")}</dd></div>`}
    ${facts.usage && html`<div><dt>${t("usage.tokens")}</dt><dd>${number(facts.usage.prompt_tokens)} → ${number(facts.usage.completion_tokens)}</dd></div>`}
  </dl>`
