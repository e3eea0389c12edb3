/**
 * A chat request as a program of the user's own. The key comes from the variable `SAGE_KEY` unless one is given, and
 * pictures from files of their names in the working directory.
 */

/** Fields that are the gateway's own: OpenAI's Python client takes them apart. */
const OWN = ["search", "memory", "mcp"]
export const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`

/**
 * @param {Record<string, any>} body
 * @param {{name: string, type: string, url: string}[]} [files] the pictures in `body`
 * @param {string} [key]
 */
export function inCurl(body, files = [], key = "") {
  const head = `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer ${key || "$SAGE_KEY"}" \\
  -H 'Content-Type: application/json' \\
`
  const json = JSON.stringify(body, null, 2)
  if (files.length === 0) return `${head}  -d ${quoted(json)}\n`
  const escaped = json.replace(/[\\$`]/g, "\\$&") // in a here-document the shell reads these
  return `${head}  -d @- <<END\n${files.reduce((text, {name, type, url}) =>
    text.replaceAll(url, () => `data:${type};base64,$(base64 < ${quoted(`./${name}`)} | tr -d '\\n')`), escaped)}\nEND\n`
}

export function inPython(body, files = [], key = "") {
  const own = OWN.filter(name => name in body)
  const fields = Object.entries(body).filter(([name]) => !own.includes(name))
  if (own.length > 0) fields.push(["extra_body", Object.fromEntries(own.map(name => [name, body[name]]))])
  return `${files.length > 0 ? "import base64\n" : ""}${key ? "" : "import os\n"}from openai import OpenAI
${files.length > 0 ? `

def picture(name, kind):
    with open(name, "rb") as file:
        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"

` : ""}
client = OpenAI(base_url="${location.origin}/v1", api_key=${key ? JSON.stringify(key) : 'os.environ["SAGE_KEY"]'})
answer = client.chat.completions.create(
${fields.map(([name, value]) => `    ${name}=${python(value, files)},`).join("\n")}
)
print(answer.choices[0].message${body.tools ? "" : ".content"})
${body.search ? `for source in answer.sources:
    print(source["number"], source["id"], source["text"])
` : ""}`
}

export function inNode(body, files = [], key = "") {
  const json = files.reduce((text, {name, type, url}) =>
    text.replaceAll(`"${url}"`, () => `picture(${JSON.stringify(name)}, ${JSON.stringify(type)})`), JSON.stringify(body, null, 2))
  return `${files.length > 0 ? `import {readFileSync} from "node:fs"
` : ""}import OpenAI from "openai"
${files.length > 0 ? `
const picture = (name, type) => \`data:\${type};base64,\${readFileSync(name, "base64")}\`
` : ""}
const client = new OpenAI({baseURL: "${location.origin}/v1", apiKey: ${key ? JSON.stringify(key) : "process.env.SAGE_KEY"}})
const answer = await client.chat.completions.create(${json})
console.log(answer.choices[0].message${body.tools ? "" : ".content"})
${body.search ? `for (const source of answer.sources) console.log(source.number, source.id, source.text)
` : ""}`
}

/** A JSON value as Python writes it: its texts and numbers are the same. */
function python(value, files) {
  if (value === true) return "True"
  if (value === false) return "False"
  if (value === null) return "None"
  if (Array.isArray(value)) return `[${value.map(each => python(each, files)).join(", ")}]`
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, files)}`).join(", ")}}`
  const file = files.find(each => each.url === value)
  return file ? `picture(${JSON.stringify(file.name)}, ${JSON.stringify(file.type)})` : JSON.stringify(value)
}
