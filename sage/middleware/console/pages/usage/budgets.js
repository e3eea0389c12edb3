/** Budgets with how far they are: given, changed and taken away by admins and owners. */
import {BudgetFields, readBudget} from "../../components/budget_fields.js"
import {Confirm} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {FormDialog} from "../../components/form_dialog.js"
import {KeyName} from "../../components/key_name.js"
import {Meter} from "../../components/meter.js"
import {Failure} from "../../components/notice.js"
import {When} from "../../components/when.js"
import {call, get, remove} from "../../core/api.js"
import {money, number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"

const path = ({kind, name}) => `/budgets/${kind}/${encodeURIComponent(name)}`
const isMoney = budget => budget.usd !== undefined && budget.usd !== null
const most = budget => isMoney(budget) ? budget.usd : budget.tokens

/** A budget's subject in words. */
export const called = ({kind, name, key_name: label}) => `${t(`usage.${kind}`)} ${label ?? name}`

/** An amount of a budget with its unit. */
export const amount = (budget, value) => isMoney(budget) ? money(value) : t("usage.count_tokens", {count: number(value)})

/** Another `turn` loads them again. */
export function Budgets({turn = 0}) {
  const {data, error, reload} = useLoaded(stop => get("/budgets", stop), [turn])
  const [editing, setEditing] = useState(null)
  const [removing, setRemoving] = useState(null)
  const governs = may.peek()("tenant:admin")
  const budgets = data?.budgets ?? []
  if (!governs && budgets.length === 0) return html`<${Failure} error=${error} retry=${reload} />`
  return html`
    <section aria-labelledby="budgets">
      <div class="title-row"><h2 id="budgets">${t("usage.budgets")}</h2>
        ${governs && html`<button onClick=${() => setEditing({})}>${t("budget.new")}</button>`}</div>
      <${Failure} error=${error} retry=${reload} />
      ${data && budgets.length === 0 && html`<p class="dim">${t("budget.none")}</p>`}
      <ul class="cards">${budgets.map(budget => html`
        <li key=${budget.subject} class="card-link">
          <span class="dim">${t(`usage.${budget.kind}`)}${budget.source === "api" ? "" : ` · ${t(`budget.from_${budget.source}`)}`}</span>
          <span class="name">${budget.kind === "key" ? html`<${KeyName} id=${budget.name} name=${budget.key_name} />` : budget.name}</span>
          <${Meter} value=${budget.spent} most=${most(budget)} label=${called(budget)} />
          <span>${amount(budget, budget.spent)} / ${amount(budget, most(budget))} · ${t(`window.${budget.window}`)}${budget.hard ? "" : ` · ${t("budget.soft")}`}</span>
          ${budget.reserved > 0 && html`<span class="dim">${t("budget.reserved", {amount: amount(budget, budget.reserved)})}</span>`}
          ${budget.opens_at && html`<span class="dim">${t("usage.opens")} <${When} at=${budget.opens_at} /></span>`}
          ${governs && (may.peek()("admin") || ["user", "key"].includes(budget.kind)) && html`<span class="buttons">
            <button class="small quiet" onClick=${() => setEditing(budget)} aria-label=${t("budget.change_of", {name: called(budget)})}>${t("action.change")}</button>
            ${budget.source === "api" && html`
              <button class="small quiet" onClick=${() => setRemoving(budget)} aria-label=${t("budget.remove_of", {name: called(budget)})}>${t("action.remove")}</button>`}</span>`}
        </li>`)}</ul>
    </section>
    ${editing && html`<${Editing} budget=${editing} onClose=${() => { setEditing(null); reload() }} />`}
    ${removing && html`<${Confirm} title=${t("budget.remove_title", {name: called(removing)})} lost=${t("budget.remove_lost")} action=${t("action.remove")}
      onClose=${() => setRemoving(null)} onConfirm=${async () => { await remove(path(removing)); reload() }} />`}`
}

function Editing({budget, onClose}) {
  const kinds = may.peek()("admin") ? ["user", "key", "tenant", "model", "tag"] : ["user", "key"]
  const send = async form => {
    const wanted = readBudget(form)
    if (wanted === null) throw new Error(t("budget.no_amount"))
    const named = budget.subject ? budget : {kind: form.get("kind"), name: String(form.get("name")).trim()}
    await call("PUT", path(named), {body: wanted})
  }
  return html`
    <${FormDialog} title=${budget.subject ? t("budget.change_of", {name: called(budget)}) : t("budget.new")} action=${t("action.save")} send=${send} onClose=${onClose}>
      ${!budget.subject && html`
        <${Field} label=${t("budget.kind")}>${field => html`
          <select ...${field} name="kind">${kinds.map(each => html`<option key=${each} value=${each}>${t(`usage.${each}`)}</option>`)}</select>`}<//>
        <${Field} label=${t("people.name")} hint=${t("budget.name_hint")}>${field => html`<input ...${field} name="name" required spellcheck="false" autocomplete="off" />`}<//>`}
      <${BudgetFields} budget=${budget.subject ? budget : undefined} />
    <//>`
}
