/** Jobs: what runs and waits, what was given up, what is started by the clock, batches and files. */
import {PageHead} from "../../components/page_head.js"
import {Tabs} from "../../components/tabs.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {Batches} from "./batches.js"
import {DeadLetters} from "./dead_letters.js"
import {Files} from "./files.js"
import {FlowerLink} from "./flower.js"
import {JobList} from "./job_list.js"
import {Schedules} from "./schedules.js"

export const Jobs = () => html`
  <${PageHead} title=${t("page.jobs")} hint=${t("jobs.hint")}>${may.peek()("admin") && html`<${FlowerLink} />`}<//>
  <${Tabs} label=${t("page.jobs")} tabs=${[
    {name: t("page.jobs"), body: () => html`<${JobList} key="jobs" />`},
    {name: t("jobs.dead"), body: () => html`<${DeadLetters} key="dead" />`},
    {name: t("jobs.schedules"), body: () => html`<${Schedules} key="schedules" />`},
    {name: t("jobs.batches"), body: () => html`<${Batches} key="batches" />`},
    {name: t("jobs.files"), body: () => html`<${Files} key="files" />`},
  ]} />`
