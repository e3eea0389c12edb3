/** A chat request as a program of the user's own. The key comes from the variable `SAGE_KEY`. */

const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`

export const inCurl = body => `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer $SAGE_KEY" -H 'Content-Type: application/json' \\
  -d ${quoted(JSON.stringify(body, null, 2))}
`

export const inPython = body => `import os
from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["SAGE_KEY"])
answer = client.chat.completions.create(
${Object.entries(body).map(([name, value]) => `    ${name}=${python(value)},`).join("\n")}
)
print(answer.choices[0].message.content)
`

export const inNode = body => `import OpenAI from "openai"

const client = new OpenAI({baseURL: "${location.origin}/v1", apiKey: process.env.SAGE_KEY})
const answer = await client.chat.completions.create(${JSON.stringify(body, null, 2)})
console.log(answer.choices[0].message.content)
`

/** A JSON value as Python writes it: its texts and numbers are the same. */
function python(value) {
  if (value === true) return "True"
  if (value === false) return "False"
  if (value === null) return "None"
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`
  return JSON.stringify(value)
}
