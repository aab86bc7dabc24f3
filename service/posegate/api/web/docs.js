// openapi.json -> a readable page of routes, options, answers and examples.

const spec = await (await fetch("/openapi.json")).json();
document.getElementById("about").textContent = `${spec.info.description} Version ${spec.info.version}, OpenAPI ${spec.openapi}.`;
document.getElementById("routes").append(
  ...Object.entries(spec.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => routeCard(path, method, route))),
  schemaCard(),
);

function element(tag, content = [], attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...[content].flat());
  return made;
}

// Text with `code` in it.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", part) : part));
}

function routeCard(path, method, route) {
  const card = element("details", [], { className: "route card" });
  card.append(element("summary", [
    element("b", method.toUpperCase()), path, element("span", route.summary ?? ""),
  ]));
  if (route.description) card.append(element("p", prose(route.description)));
  if (method === "post") card.append(element("pre", curl(path)));
  const options = [...(route.parameters ?? []), ...firstMessage(route)];
  if (options.length) {
    card.append(element("h3", "Options"), table(
      ["name", "in", "type", "default", "meaning"],
      options.map((option) => [
        option.name, option.in, typeOf(option.schema), JSON.stringify(option.schema.default) ?? "", prose(option.description ?? ""),
      ]),
    ));
  }
  const body = route.requestBody?.content;
  if (body) card.append(element("h3", "Body"), element("p", Object.keys(body).join(", ")));
  const answers = Object.entries(route.responses);
  for (const [status, answer] of answers.filter(([status]) => status < 400)) card.append(...success(status, answer));
  const refused = answers.filter(([status]) => status >= 400).flatMap(refusals);
  if (refused.length) card.append(element("h3", "Problems"), table(["status", "type", "for example"], refused));
  card.open = method === "post";
  return card;
}

// The options of a stream, which stand in its first message, as parameters of its route.
function firstMessage(route) {
  const message = route["x-first-message"];
  const properties = message ? spec.components.schemas[typeOf(message)].properties : {};
  return Object.entries(properties).map(([name, schema]) => ({ name, in: "first message", schema, description: schema.description }));
}

function curl(path) {
  return path.endsWith(":batch")
    ? `curl -F image=@one.jpg -F image=@two.jpg ${location.origin}${path}`
    : `curl --data-binary @photo.jpg -H 'content-type: image/jpeg' ${location.origin}${path}`;
}

function success(status, answer) {
  const parts = [element("h3", `${status}: ${answer.description}`)];
  for (const [type, content] of Object.entries(answer.content ?? {})) {
    parts.push(element("p", `${type}: ${content.schema ? typeOf(content.schema) : "any"}`));
    for (const [name, example] of Object.entries(content.examples ?? {})) {
      parts.push(element("details", [
        element("summary", `example: ${name}`), element("pre", JSON.stringify(example.value, null, 1)),
      ]));
    }
  }
  return parts;
}

function refusals([status, answer]) {
  const examples = Object.values(answer.content?.["application/problem+json"]?.examples ?? {});
  return examples.map(({ value }) => [status, value.type, prose(`${value.title}: ${value.detail}`)]);
}

function schemaCard() {
  const card = element("section", element("h2", "Schemas"), { className: "card" });
  for (const [name, schema] of Object.entries(spec.components.schemas)) {
    const shown = element("details", element("summary", name), { id: name });
    shown.append(element("pre", JSON.stringify(schema, null, 1)));
    card.append(shown);
  }
  return card;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  const limits = [["minimum", "≥"], ["maximum", "≤"], ["exclusiveMinimum", ">"]]
    .filter(([key]) => key in schema).map(([key, sign]) => ` ${sign} ${schema[key]}`).join(",");
  return (schema.type === "array" ? `list of ${typeOf(schema.items ?? {})}` : schema.format ?? schema.type ?? "any") + limits;
}

function table(heads, rows) {
  const made = element("table");
  made.createTHead().append(element("tr", heads.map((head) => element("th", head, { scope: "col" }))));
  made.createTBody().append(...rows.map((cells) => element("tr", cells.map((cell) => element("td", cell)))));
  return made;
}
