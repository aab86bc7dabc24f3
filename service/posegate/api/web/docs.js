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

function routeCard(path, method, route) {
  const card = element("details", [], { className: "route card" });
  card.append(element("summary", [
    element("b", method.toUpperCase()), path, element("span", route.summary ?? ""),
  ]));
  if (route.description) card.append(element("p", route.description));
  if (route.parameters?.length) {
    card.append(element("h3", "Options"), table(
      ["name", "in", "type", "default", "meaning"],
      route.parameters.map((option) => [
        option.name, option.in, typeOf(option.schema), JSON.stringify(option.schema.default ?? null), option.description ?? "",
      ]),
    ));
  }
  const body = route.requestBody?.content;
  if (body) card.append(element("h3", "Body"), element("p", Object.keys(body).join(", ")));
  for (const [status, answer] of Object.entries(route.responses)) card.append(...answerParts(status, answer));
  card.open = method === "post";
  return card;
}

function answerParts(status, answer) {
  const parts = [element("h3", `${status}: ${answer.description}`)];
  for (const [type, content] of Object.entries(answer.content ?? {})) {
    const examples = Object.entries(content.examples ?? {});
    parts.push(element("p", `${type} ${content.schema ? typeOf(content.schema) : ""}`));
    for (const [name, example] of examples) {
      const shown = element("details", [element("summary", `example: ${name}`)]);
      shown.append(element("pre", JSON.stringify(example.value, null, 1)));
      parts.push(shown);
    }
  }
  return parts;
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
