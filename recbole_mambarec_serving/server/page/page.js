// The page of recbole-mambarec serve. What the server answers is only ever put into the page as text.

const $ = (id) => document.getElementById(id);
const told = (name) => document.querySelector(`meta[name="${name}"]`).content;
const imageHosts = told("image-hosts").split(" ").filter(Boolean);
const lengths = [10, 20, 50];
// no list is longer than the server allows, or than the catalogue
let longest = Number(told("longest-list"));
// items that the person at the page has chosen: id -> title
const basket = new Map();
// modalities whose features the server has
let comparable = [];
let settings = { k: 20, exclude_seen: true, by: "model" };
// answers to what is no longer asked for are dropped
let view = 0;
let searched = 0;

const length = () => Math.min(settings.k, longest);

class Refused extends Error {}

async function ask(path, body) {
  const token = sessionStorage.getItem("token");
  const options = { headers: token ? { authorization: `Bearer ${token}` } : {} };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused("The server cannot be reached.");
  }
  // an answer to an earlier token says nothing about this one, nor does one that needs none
  if (path !== "health" && token === sessionStorage.getItem("token")) $("token").hidden = response.status !== 401;
  const answer = await response.json();
  if (!response.ok) throw new Refused(`${answer.error[0].toUpperCase()}${answer.error.slice(1)}.`);
  return answer;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const link = (kind, id, text) => element("a", { href: `#/${kind}/${encodeURIComponent(id)}` }, text);
const shown = (count, one) => (count === 1 ? `1 ${one}` : `${count} ${one}s`);

function say(text, fault = false) {
  $("status").textContent = text;
  $("status").className = fault ? "fault" : "quiet";
}

// ---------------------------------------------------------------------------------------------------------------
// parts of a view

function picture(address) {
  let origin;
  try {
    origin = new URL(address, location.href).origin;
  } catch {
    return [];
  }
  if (origin !== location.origin && !imageHosts.includes(origin)) return [];
  // its title stands beside it
  return [element("img", { src: address, alt: "", loading: "lazy", onerror: (event) => event.target.remove() })];
}

function ranked(recommendations, images) {
  const rows = recommendations.map(({ item, title, score }) =>
    element(
      "li",
      {},
      ...(images.has(item) ? picture(images.get(item)) : []),
      element(
        "div",
        { class: "what" },
        link("item", item, title || item),
        element("span", { class: "quiet" }, `${title ? `${item}, ` : ""}score ${score.toPrecision(4)}`),
      ),
      adder(item, title),
    ),
  );
  return element("ol", { class: "ranked" }, ...rows);
}

function adder(item, title) {
  const add = () => {
    basket.set(item, title || item);
    drawBasket();
    say(`${title || item} is among the chosen items.`);
  };
  return element("button", { type: "button", "aria-label": `Choose ${title || item}`, onclick: add }, "Choose");
}

function controls(...parts) {
  const k = element("select", { id: "k" }, ...lengths.map((n) => element("option", { selected: n === settings.k }, n)));
  k.addEventListener("change", () => again({ k: Number(k.value) }));
  return element("div", { class: "controls" }, element("label", { for: "k" }, "Items"), k, ...parts);
}

function seenControl(text) {
  const change = (event) => again({ exclude_seen: event.target.checked });
  return element(
    "label",
    {},
    element("input", { type: "checkbox", checked: settings.exclude_seen, onchange: change }),
    text,
  );
}

function again(changed) {
  settings = { ...settings, ...changed };
  show();
}

async function imagesOf(recommendations) {
  const images = new Map();
  if (imageHosts.length && recommendations.length) {
    const { items } = await ask("items", { items: recommendations.map(({ item }) => item) });
    for (const { id, image } of items) if (image) images.set(id, image);
  }
  return images;
}

// ---------------------------------------------------------------------------------------------------------------
// views: each returns a heading, what stands below it, and its list

async function userView(user) {
  const { results, unknown } = await ask("recommend", { users: [user], k: length(), exclude_seen: settings.exclude_seen });
  if (unknown.length) throw new Refused(`The model does not know the user ${user}.`);
  return [`Recommended to ${user}`, [controls(seenControl("without what they have already"))], results[0].recommendations];
}

async function itemView(item) {
  const info = await ask(`items/${encodeURIComponent(item)}`);
  const ways = ["model", ...info.modalities.filter((name) => comparable.includes(name))];
  const by = ways.includes(settings.by) ? settings.by : "model";
  const { similar } = await ask(`similar/${encodeURIComponent(item)}?k=${length()}&by=${encodeURIComponent(by)}`);
  const way = element("select", { id: "by" }, ...ways.map((name) => element("option", { selected: name === by }, name)));
  way.addEventListener("change", () => again({ by: way.value }));
  const about = element(
    "p",
    { class: "controls" },
    ...(info.image ? picture(info.image) : []),
    element("span", {}, `${info.title ? `Id ${info.id}, ` : ""}${shown(info.popularity, "user")} in training`),
    adder(info.id, info.title),
  );
  const similarTo = controls(element("label", { for: "by" }, "similar to"), way);
  return [`Similar to ${info.title || info.id}`, [about, similarTo], similar];
}

async function basketView() {
  if (!basket.size) throw new Refused("No items are chosen: search for some, and choose them.");
  const body = { items: [...basket.keys()], k: length(), exclude_seen: settings.exclude_seen };
  const { recommendations } = await ask("recommend-for", body);
  return ["Recommended to somebody who has the chosen items", [controls(seenControl("without them"))], recommendations];
}

async function show() {
  const mine = ++view;
  const [, kind, id] = location.hash.match(/^#\/(user|item|basket)(?:\/(.*))?$/s) || [];
  const main = $("main");
  if (!kind) {
    main.replaceChildren();
    document.title = "Recommendations";
    return;
  }
  const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
  main.setAttribute("aria-busy", "true");
  try {
    const value = id === undefined ? "" : decodeURIComponent(id);
    const [heading, parts, list] = await { user: userView, item: itemView, basket: basketView }[kind](value);
    const images = await imagesOf(list);
    if (mine !== view) return;
    const title = element("h2", { tabindex: "-1" }, heading);
    main.replaceChildren(title, ...parts, ranked(list, images));
    document.title = heading;
    // a control that has been used keeps the focus, otherwise reading goes on at the heading
    (focused && $(focused) ? $(focused) : title).focus();
    say(list.length ? shown(list.length, "item") : "There is nothing to recommend.");
  } catch (error) {
    if (mine !== view) return;
    main.replaceChildren();
    say(error instanceof Refused ? error.message : "This address is none of this page.", true);
    if (!(error instanceof Refused || error instanceof URIError)) throw error;
  } finally {
    if (mine === view) main.removeAttribute("aria-busy");
  }
}

// ---------------------------------------------------------------------------------------------------------------
// search, chosen items, token

async function search(event) {
  event?.preventDefault();
  const mine = ++searched;
  const kind = new FormData($("search")).get("kind");
  try {
    const answer = await ask(`search/${kind}?limit=20&q=${encodeURIComponent($("text").value)}`);
    if (mine !== searched) return;
    const links =
      kind === "users"
        ? answer.users.map((user) => link("user", user, user))
        : answer.items.map(({ id, title }) => link("item", id, title ? `${title} (${id})` : id));
    $("found").replaceChildren(...links.map((each) => element("li", {}, each)));
    if (event) say(links.length ? `${shown(links.length, kind.slice(0, -1))} found` : "Nothing is found.");
  } catch (error) {
    if (mine !== searched) return;
    if (!(error instanceof Refused)) throw error;
    $("found").replaceChildren();
    say(error.message, true);
  }
}

function drawBasket() {
  const rows = [...basket].map(([item, title]) => {
    const remove = () => {
      basket.delete(item);
      drawBasket();
      say(`${title} is no longer chosen.`);
    };
    const button = element("button", { type: "button", "aria-label": `Remove ${title}`, onclick: remove }, "Remove");
    return element("li", {}, element("span", {}, title), button);
  });
  $("basket").querySelector("ul").replaceChildren(...rows);
  $("basket").hidden = !basket.size;
}

async function begin() {
  try {
    const { bundle, fault } = await ask("health");
    if (bundle) {
      comparable = bundle.modalities;
      longest = Math.min(Number(told("longest-list")), bundle.items);
      $("bundle").textContent = `${bundle.name}: ${shown(bundle.users, "user")}, ${shown(bundle.items, "item")}`;
    }
    if (fault) say(`A newer bundle is not served: ${fault}`, true);
  } catch (error) {
    say(error.message, true);
  }
  await Promise.all([search(), show()]);
}

$("search").addEventListener("submit", search);
for (const radio of document.querySelectorAll('input[name="kind"]')) radio.addEventListener("change", search);
$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("secret").value.trim());
  $("secret").value = "";
  say("");
  begin();
});
$("basket").querySelector("a").addEventListener("click", () => {
  // the address may be the same as before, which is no change of it
  if (location.hash === "#/basket") show();
});
addEventListener("hashchange", show);
begin();
