"""The words: what a map says, what it cannot say, and the page that shows all of them."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headstart._explain import Explanation, Map

CAPTIONS = ("as given; a frame, if any, bounds what the network saw", "with the heat; a line around its hottest 20 %")
ALIKE = 0.5  # rank correlation with an untrained network's maps from which on it is said

UNSTEADY = 0.05  # difference in probability between predict's precision and fp32 from which on it is said

LIMITS = (
    "A map shows where in the picture the network found what speaks for the class, not why it did, and not whether "
    "that is a good reason: heat on a marker, a tube or the edge of the picture is a warning that the network may "
    "have learnt the wrong thing, and heat on the right place is no proof that it learnt the right one. The map is as "
    "coarse as the layer it is taken from, so its outline is not the outline of anything. It speaks for one class "
    "against the others; places that speak against it are left cold, and a class that is told by what is missing has "
    "no place to point at. And a map always looks like an answer: some methods draw convincing ones even for a "
    "network that has learnt nothing (Adebayo and others, Sanity Checks for Saliency Maps, NeurIPS 2018). That is why "
    "two things are measured above: what hiding the hottest part costs, against hiding a part of the same shape "
    "elsewhere (hidden parts are filled in from their surroundings, which is itself a picture that the network never "
    "met), and how much the maps resemble those of the same network without training."
)


@dataclass(frozen=True, slots=True)
class Card:
    """One example on the page."""

    map: Map
    file: str
    """Name of its PNG."""
    picture: bytes
    heated: bytes
    """JPEG."""


def percent(probability: float) -> str:
    """A probability for people; certainty is never claimed."""
    if probability > 0.995:
        return "over 99 %"
    return "under 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def title(found: Map) -> str:
    """Predicted class and calibrated probability, and the class asked for if it is another."""
    predicted = f"{found.label} · {percent(found.probability)}"
    if found.explained == found.label:
        return predicted
    return f"heat for {found.explained} · {percent(found.before)} (predicted: {predicted})"


def lines(found: Map) -> list[str]:
    """The deletion test of one example."""
    if not found.hidden:
        return [f"The map is empty: at this layer nothing speaks for {found.explained}."]
    random = sum(found.after_random) / len(found.after_random)
    worse = sum(p <= found.after for p in found.after_random)
    change = f"{found.explained} {percent(found.before)} → {percent(found.after)}"
    return [
        f"Hottest {100 * found.hidden:.0f} % hidden: {change}",
        f"As much hidden elsewhere: → {percent(random)} on average"
        + (f" ({worse} of {len(found.after_random)} random places cost as much)" if worse else ""),
        f"In the middle quarter: {percent(found.centre)} of the heat",
        *_precision(found),
    ]


def _precision(found: Map) -> list[str]:
    if found.label != found.explained or abs(found.before - found.probability) < UNSTEADY:
        return []
    return [f"Rounding matters here: {percent(found.probability)} as predicted, {percent(found.before)} in fp32"]


def headlines(found: Explanation) -> list[str]:
    """What the maps are worth, a sentence each; the first is the deletion test."""
    test, said = found.faithfulness, []
    said.append(test.headline() if test else "every map is empty: nothing speaks for the class, so nothing can be said")
    if found.untrained is not None:
        figure = f"rank correlation with the maps of an untrained copy of the network: {found.untrained:.2f}"
        alike = "; they owe much to the picture and the architecture, little to what was learnt"
        said.append(figure + (alike if found.untrained >= ALIKE else " (1 would be the same maps, 0 unrelated ones)"))
    empty = sum(not m.hidden for m in found.maps)
    if empty and test:
        said.append(f"{empty} of {len(found.maps)} maps are empty (nothing at this layer speaks for the class)")
    return said


POLICY = "default-src 'none';img-src data:;style-src 'unsafe-inline'"
STYLE = """
:root{color-scheme:light dark;--line:#8886;--good:#2a6f97;--bad:#b3541e}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.1rem;margin:0}
.verdict{border-left:.4rem solid var(--good);padding:.2rem 1rem}.verdict.bad{border-color:var(--bad)}
.verdict p{margin:.3rem 0}.verdict p:first-child{font-size:1.15rem}
article{border-top:1px solid var(--line);padding:1rem 0;break-inside:avoid}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem;margin:.6rem 0}
figure{margin:0}img{width:100%;height:auto;max-height:28rem;object-fit:contain;object-position:left top;display:block}
figcaption,.file,.facts{font-size:.85rem;opacity:.8;overflow-wrap:anywhere}article p{margin:.2rem 0}
.scale{display:flex;align-items:center;gap:.5rem;font-size:.85rem;margin:1rem 0}
.scale i{flex:0 1 12rem;height:.8rem;border-radius:.2rem;
background:linear-gradient(90deg,#57106e,#bc3754,#f98e09,#fcffa4)}
@media(min-width:60rem){.cards{display:grid;grid-template-columns:1fr 1fr;column-gap:2rem}}
@media print{body{max-width:none}}
"""


def as_page(found: Explanation, cards: list[Card]) -> str:
    """One HTML page with everything in it: no script, nothing fetched, read by eye or aloud."""
    e = _escaped
    first, *more = found.headlines()
    good = found.faithfulness is not None and found.faithfulness.better_than_random
    said = "".join(f"<p>{e(line[:1].upper() + line[1:])}.</p>" for line in (first, *more))
    unread = "".join(f"<li>{e(name)}: {e(reason)}</li>" for name, reason in found.unreadable.items())
    unread = f"<h2>Could not be read: {len(found.unreadable)}</h2><ul class=file>{unread}</ul>" if unread else ""
    about = f"{found.about['model'] or 'The model'}, from {found.about['source']}; {found.method}, layer {found.layer}"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        f"<title>Where the network looked</title><style>{STYLE}</style></head><body><main>"
        f"<h1>Where the network looked</h1><p class=facts>{e(about)}; {len(found.maps)} files, seed "
        f"{found.about['seed']}</p><div class='verdict{'' if good else ' bad'}'>{said}</div>"
        f"<p>{e(LIMITS)}</p><div class=scale>less heat <i></i> more</div>{unread}"
        f"<div class=cards>{''.join(_card(card) for card in cards)}</div></main></body></html>\n"
    )


def _card(card: Card) -> str:
    e, m = _escaped, card.map
    tell = "".join(f"<p>{e(line)}</p>" for line in lines(m))
    figures = "".join(
        f"<figure><img alt='{e(alt)}' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
        f"<figcaption>{e(caption)}</figcaption></figure>"
        for data, alt, caption in (
            (card.picture, f"{m.name} as given", CAPTIONS[0]),
            (card.heated, f"{m.name} in grey under the heat for {m.explained}. {' '.join(lines(m))}", CAPTIONS[1]),
        )
    )
    return (
        f"<article><h2>{e(title(m))}</h2><p class=file>{e(m.name)}</p><div class=pair>{figures}</div>{tell}"
        f"<p class=facts>full size: {e(card.file)}</p></article>"
    )


def _escaped(text: str) -> str:
    """Safe in HTML, with numbers and their per cent signs on one line."""
    return html.escape(text).replace(" %", "&nbsp;%")
