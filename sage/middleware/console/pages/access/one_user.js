/** One user: role, team, limits and budget; disabled, given a new password, logged out everywhere. */
import {BudgetFields, LimitFields, readBudget, readLimits} from "../../components/budget_fields.js"
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Form, FormDialog} from "../../components/form_dialog.js"
import {Panel} from "../../components/panel.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {patch, remove} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf, queryOf} from "../../core/query.js"
import {may} from "../../core/session.js"
import {amount} from "../usage/budgets.js"
import {changesOf, plainBudget, plainLimits} from "./rights.js"

const ROLES = ["user", "viewer", "owner", "admin"]

export const RoleField = ({value = "user"}) => html`
  <${Field} label=${t("people.role")}>${field => html`
    <select ...${field} name="role">${ROLES.filter(role => role !== "admin" || may.peek()("admin")).map(role => html`
      <option key=${role} value=${role} selected=${role === value}>${t(`role.${role}`)}</option>`)}</select>`}<//>`

export const TeamField = ({teams, value}) => teams.length > 1 && html`
  <${Field} label=${t("people.team")}>${field => html`
    <select ...${field} name="tenant">${teams.map(team => html`
      <option key=${team.id} value=${team.name} selected=${team.name === value}>${team.name}</option>`)}</select>`}<//>`

export const PasswordField = ({label = t("login.password"), name = "password"}) => html`
  <${Field} label=${label} hint=${t("setup.password_hint")}>${field => html`
    <input ...${field} name=${name} type="password" required autocomplete="new-password" />`}<//>`

export function OneUser({user, teams, onClose, onChanged}) {
  const [act, setAct] = useState("")
  const change = async fields => { await patch("/auth/users", {username: user.name, ...fields}); onChanged() }
  const save = async form => {
    const own = user.budget?.source === "api" ? plainBudget(user.budget) : null
    const wanted = {role: form.get("role"), tenant: form.get("tenant") ?? user.tenant, limits: readLimits(form), budget: readBudget(form)}
    const body = changesOf({...user, budget: own, limits: plainLimits(user.limits)}, wanted)
    if (Object.keys(body).length) await change(body)
  }
  const close = () => setAct("")
  return html`
    <${Panel} title=${user.name} onClose=${onClose}>
      <${Facts} items=${[
        [t("people.role"), t(`role.${user.role}`)],
        [t("people.team"), user.tenant],
        [t("models.state"), t(user.disabled ? "people.disabled" : "people.active")],
        [t("people.last_login"), html`<${When} at=${user.last_login_at} />`],
        [t("people.budget"), user.budget && `${amount(user.budget, user.budget.spent)} / ${amount(user.budget, user.budget.usd ?? user.budget.tokens)}`],
      ]} />
      <p class="links"><a href=${addressOf("keys", "", {user: user.name})}>${t("page.keys")}</a>
        <a href=${addressOf("requests", "", {user: user.name})}>${t("page.requests")}</a>
        <a href=${addressOf("usage", "", {user: user.name})}>${t("page.usage")}</a></p>
      <div class="buttons">
        <button onClick=${() => setAct("password")}>${t("people.new_password")}</button>
        <button onClick=${() => setAct("sessions")}>${t("people.end_sessions")}</button>
        <button onClick=${() => setAct("disable")}>${t(user.disabled ? "people.enable" : "people.disable")}</button>
        <button class="danger" onClick=${() => setAct("forget")}>${t("people.forget")}</button></div>
      <h3>${t("keys.change")}</h3>
      <${Form} action=${t("action.save")} send=${save}>
        <${RoleField} value=${user.role} /><${TeamField} teams=${teams} value=${user.tenant} />
        <${LimitFields} limits=${user.limits} /><${BudgetFields} budget=${user.budget?.source === "api" ? user.budget : undefined} />
      <//>
      ${act === "password" && html`
        <${FormDialog} title=${t("people.password_title", {name: user.name})} action=${t("people.new_password")} onClose=${close}
          send=${form => change({password: form.get("password")})}><p>${t("people.password_lost")}</p><${PasswordField} /><//>`}
      ${act === "sessions" && html`
        <${Confirm} title=${t("people.sessions_title", {name: user.name})} lost=${t("people.sessions_lost")} action=${t("people.end_sessions")} onClose=${close}
          onConfirm=${async () => { await change({end_sessions: true}); told(t("state.saved")) }} />`}
      ${act === "disable" && html`
        <${Confirm} title=${t(user.disabled ? "people.enable_title" : "people.disable_title", {name: user.name})} lost=${t(user.disabled ? "people.enable_hint" : "people.disable_lost")}
          action=${t(user.disabled ? "people.enable" : "people.disable")} onClose=${close}
          onConfirm=${async () => { await change({disabled: !user.disabled}); told(t("state.saved")) }} />`}
      ${act === "forget" && html`
        <${Confirm} title=${t("people.forget_title", {name: user.name})} lost=${t("people.forget_lost")} action=${t("people.forget")} onClose=${close}
          onConfirm=${async () => { await remove(`/usage?${queryOf({user: user.name})}`); told(t("people.forgotten")) }} />`}
    <//>`
}
