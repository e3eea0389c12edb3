/** One team: its models, limits and budgets, what each member has, whether prompts are kept; made and deleted. */
import {BudgetFields, LimitFields, readBudget, readLimits} from "../../components/budget_fields.js"
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Form} from "../../components/form_dialog.js"
import {Panel} from "../../components/panel.js"
import {told} from "../../components/toast.js"
import {patch, post, remove} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf} from "../../core/query.js"
import {may} from "../../core/session.js"
import {amount} from "../usage/budgets.js"
import {TextField, changesOf, plainBudget, plainLimits, words} from "./rights.js"

const MEMBER = "member_"
const DAYS = 30 // for which texts are kept, where nothing else is said

function capture(/** @type {FormData} */ form) {
  if (form.get("prompts") !== "on") return null
  const redact = String(form.get("redact")).split("\n").map(line => line.trim()).filter(Boolean)
  return {prompts: true, days: Number(form.get("days")) || DAYS, redact}
}

/** What a team is, as a form gives it. */
function wantedOf(form, governsAll) {
  const members = {note: form.get("note"), member_limits: readLimits(form, MEMBER), member_budget: readBudget(form, MEMBER), capture: capture(form)}
  return governsAll ? {...members, models: words(form.get("models")), limits: readLimits(form), budget: readBudget(form)} : members
}

/** `team` is undefined for one that is to be made. */
export function OneTeam({team, onClose, onChanged}) {
  const [removing, setRemoving] = useState(false)
  const governsAll = may.peek()("admin")
  const known = team ?? {models: ["*"]}
  const save = async form => {
    const wanted = wantedOf(form, governsAll)
    if (!team) {
      await post("/auth/teams", {name: String(form.get("name")).trim(), ...Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== null && value !== ""))})
      onChanged()
      return onClose()
    }
    const own = team.budget?.source === "api" ? plainBudget(team.budget) : null
    const body = changesOf({...team, budget: own, member_budget: plainBudget(team.member_budget),
      limits: plainLimits(team.limits), member_limits: plainLimits(team.member_limits)}, wanted)
    if (Object.keys(body).length) await patch(`/auth/teams/${encodeURIComponent(team.id)}`, body)
    onChanged()
  }
  return html`
    <${Panel} title=${team?.name ?? t("people.add_team")} onClose=${onClose}>
      ${team && html`
        <${Facts} items=${[
          [t("people.members"), number(team.members)],
          [t("people.keys"), number(team.keys)],
          [t("people.budget"), team.budget && `${amount(team.budget, team.budget.spent)} / ${amount(team.budget, team.budget.usd ?? team.budget.tokens)}`],
        ]} />
        <p class="links"><a href=${addressOf("keys", "", {team: team.name})}>${t("page.keys")}</a> <a href=${addressOf("usage", "", governsAll ? {tenant: team.name} : {})}>${t("page.usage")}</a></p>`}
      <${Form} action=${team ? t("action.save") : t("people.add")} send=${save}>
        ${!team && html`<${TextField} label=${t("people.name")} name="name" required />`}
        <${TextField} label=${t("people.note")} name="note" value=${known.note ?? ""} />
        ${governsAll && html`
          <${TextField} label=${t("keys.models")} name="models" value=${known.models.join(", ")} required hint=${t("people.models_hint")} />
          <${LimitFields} limits=${known.limits} label=${t("people.team_limits")} />
          <${BudgetFields} budget=${known.budget?.source === "api" ? known.budget : undefined} label=${t("people.team_budget")} />`}
        <${LimitFields} limits=${known.member_limits} name=${MEMBER} label=${t("people.member_limits")} />
        <${BudgetFields} budget=${known.member_budget ?? undefined} name=${MEMBER} label=${t("people.member_budget")} />
        <fieldset><legend>${t("requests.texts")}</legend>
          <label class="check"><input type="checkbox" name="prompts" defaultChecked=${known.capture?.prompts ?? false} /> ${t("people.capture")}</label>
          <${TextField} label=${t("people.capture_days")} name="days" type="number" min="1" max="3650" value=${known.capture?.days ?? DAYS} />
          <${Field} label=${t("people.redact")} hint=${t("people.redact_hint")}>${field => html`
            <textarea ...${field} name="redact" rows="2" class="code" spellcheck="false">${(known.capture?.redact ?? []).join("\n")}</textarea>`}<//>
        </fieldset>
      <//>
      ${team && governsAll && html`<button class="danger" onClick=${() => setRemoving(true)}>${t("people.delete_team")}</button>`}
      ${removing && html`
        <${Confirm} title=${t("people.delete_title", {name: team.name})} lost=${t("people.delete_lost")} action=${t("people.delete_team")} onClose=${() => setRemoving(false)}
          onConfirm=${async () => { await remove(`/auth/teams/${encodeURIComponent(team.id)}`); told(t("people.deleted")); onChanged(); onClose() }} />`}
    <//>`
}
