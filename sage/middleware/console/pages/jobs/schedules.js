/** Jobs that the clock starts: when they come next, what the last one did, and starting one now. */
import {CodeBlock} from "../../components/copyable.js"
import {Facts} from "../../components/facts.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {get, post} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {valueText} from "../settings/value.js"
import {OneJob} from "./one_job.js"

const EXAMPLE = `queue:
  schedules:
    nightly: {cron: "0 3 * * *", timezone: Europe/Berlin, task: snapshot, params: {collection: notes}, user: me}`

const rule = each => each.cron ?? t("jobs.every", {time: valueText(each.every, "seconds")})

export function Schedules() {
  const {data, error, reload} = useLoaded(stop => get("/schedules", stop))
  const [open, setOpen] = useState(null)
  const [job, setJob] = useState(null)
  const columns = [
    {key: "name", title: t("keys.name"), cell: each => html`<strong>${each.name}</strong>`},
    {key: "task", title: t("jobs.kind"), cell: each => t(`job.${each.task}`)},
    {key: "rule", title: t("jobs.rule"), cell: each => html`<code>${rule(each)}</code> <span class="dim">${each.cron ? each.timezone : ""}</span>`},
    {key: "next", title: t("jobs.next"), cell: each => html`<${When} at=${each.next} />`},
    {key: "last", title: t("jobs.last"), cell: each => html`<${When} at=${each.last} />`},
    {key: "user", title: t("requests.user"), cell: each => each.user},
  ]
  return html`
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.schedules.length === 0
      ? html`<${Empty} title=${t("jobs.no_schedules")}><p>${t("jobs.no_schedules_hint")}</p><${CodeBlock} language="YAML" text=${EXAMPLE} /><//>`
      : html`<${Table} label=${t("jobs.schedules")} columns=${columns} rows=${data.schedules} id=${each => each.name} onOpen=${setOpen} />`}
    ${open && html`<${OneSchedule} schedule=${open} onClose=${() => setOpen(null)} onJob=${id => { setOpen(null); setJob(id) }} />`}
    ${job && html`<${OneJob} key=${job} id=${job} onClose=${() => setJob(null)} onChange=${reload} />`}`
}

function OneSchedule({schedule, onClose, onJob}) {
  const [failed, setFailed] = useState(undefined)
  const start = async () => {
    try {
      const job = await post(`/schedules/${encodeURIComponent(schedule.name)}/run`)
      told(t("jobs.run_started"))
      onJob(job.id)
    } catch (problem) {
      setFailed(problem)
    }
  }
  return html`
    <${Panel} title=${schedule.name} onClose=${onClose}>
      <${Failure} error=${failed} />
      <${Facts} items=${[
        [t("jobs.kind"), t(`job.${schedule.task}`)],
        [t("jobs.rule"), html`<code>${rule(schedule)}</code> ${schedule.timezone}`],
        [t("jobs.next"), html`<${When} at=${schedule.next} />`],
        [t("jobs.last"), schedule.last_job ? html`<${When} at=${schedule.last} />
          <button class="quiet small" onClick=${() => onJob(schedule.last_job)}>${t("jobs.see_job")}</button>` : null],
        [t("jobs.rights_of"), schedule.tenant ? `${schedule.user} · ${schedule.tenant}` : schedule.user],
      ]} />
      <h3>${t("jobs.params")}</h3><${CodeBlock} language="JSON" text=${JSON.stringify(schedule.params, null, 2)} />
      <p class="dim">${t("jobs.schedule_hint")}</p>
      <div class="actions"><button class="primary" onClick=${start}>${t("jobs.run_now")}</button></div>
    <//>`
}
