"""Titles that hundreds of people typed, as captions: what is to be seen, in English; '' if they do not say it."""

from __future__ import annotations

import html
import re

from vlm_ablate.offline.debian.words import as_caption, first_sentence, plain
from vlm_ablate.offline.kinds import kinds

LONGEST_TITLE = 12
"""Words."""

# Italian, French, German, Spanish, Portuguese, Polish; and words that no picture shows: makers, series, formats.
_FOREIGN = frozenset(
    """
    abeille abitazione adresse aglio albero ambulans amibe andorre antilope appunti aquila arbre architetto asso
    attenzione autos balearian barattolo bicicletta binocolo bitte blokken bobi bobine borsa bottiglia bretagne
    bussola cacuts calamita calcolatrice calebasse camicia canarian canarias canguro cani carreau carta carte cartella
    cartes casa casco cassa castilla cavalletta cestino cesto champignon charge chateau chaussee chiave chute cigni
    cigno civiere clessidra coccinella coccinelle coccinellona coeur colori comburant come coniglio contorno contre
    copileftcommies corps corrosif couronne croche cronometro cucina dannebrog decorazione defense dente derbouk des
    di diagramma dinosauri dinosauro dossier douche eau echelle elefante engrenagem entree erlenmeyer esperimento
    estrella euskadi extincteur extremadura extremement fabbrica facilement farfalla farfalle fata feaux ferro fiore
    flamand flamme forbici forchettoni formichina formicona formulario francobollo fuoco gabbiano galette gallo gateau
    gatta gatti gattina gatto gauffre gelato gender glace gpride griglia grune gufo gwen humain icthus illuminati
    incendie inflammable insetto interdiction interdite io istogramma kernow kubek lana lattine lauburu lente lettera
    libellula libellule libro livella logaritmic lucchetto lucertola lucertolona lucertolone lumaca macchina mante
    mantide mapa marchio mazzo media medicina mentuccia microscopio mie mix mondo moschito mostriciattolo motivo
    moulures municipios nationale navarra nocif noi nonno nuage nucleare numero obligation obligatoire oiseau olifant
    olivier ontologia orme orologio ouie ours pacco padania paesaggio palloncini pallone pannocchia pansement pasteque
    pattinatrice pattinatrici pattino pecora pennello pera pesca pescetto pieds pietons pinguino pinzatrice pique
    piramide pollo poltrona pomodori porcinet portafoglio premiers profilati proiettore protection provetta provette
    prugna pudim punaisa puntine quattro radiations ragnetto ragno ramarro rana ravanello rayonnement recznik rincage
    rios risque rondelle ruota sacco sapin sapone sauvetage scodella scolapasta secchio securite sedia seduto signore
    signorina simbolo siringa sole sortie stambecco stara stemma stormo suisse suivre tabella tacchino tasto tatoo
    tatuaggio tavolo tavolozza tazza teide teiera telecamera telefono televisore tenda teschio tete tigre tigri topo
    toque toro toros torta toxique trattore trebuchement trefle tres tueten uccelli uccello utensile utensili utente
    utenti vacca valigie vehicules velocette viti voies vtt vue yeux zanzara zielony zucca

    abracadabra air alerta arki blazer blots bluepane bofish bpoe bradley break brozo cfbulb chav chodovian creation
    cuppa cursor debian elder electrique emule enthusiast ex example examples fanart francesco geko general graubner
    gumnut hacked have hug icon icons image info inservice irritant jazz jang kallisti kanji karl keep kexi lam
    lambda lazard lotas lowtec manager mandrake manuscriot mascot mcoon meijer menu mhooo midautumn mirjam mpcad mr ms
    mygraph nuskool obrazek oceania oh openclipart otto panel part passo pfd piche pimp presentation probability
    profile psycho question quit r15 reincarnate rollandin roman rss saku sample security sent sexy shaezy shi silvia
    skoynk sony spaclu squeek starwalker stefan stripper svg template tempus thongs toucher tribal untitled user
    vgcats virus visio website what's wmd xbill zinf
    """.split()
)
_CARELESS = re.compile(r"[@<>{}\\|=]|\.(?:svg|py|png|de|com)\b|https?:|www\.|hash\(", re.IGNORECASE)

_MISSPELT = {
    "ballon": "ball", "ballons": "balloons", "blowling": "bowling", "celebirty": "celebrity", "coffe": "coffee",
    "envelop": "envelope", "lotas": "lotus", "magelan": "magellan", "magnifing": "magnifying", "mallot": "mallet",
    "mulit": "multi", "pettle": "petal", "saphire": "sapphire", "scrathing": "scratching", "silhouet": "silhouette",
    "simbol": "symbol", "soccor": "soccer", "southen": "southern", "vavuum": "vacuum", "vegitables": "vegetables",
    "volleball": "volleyball", "whit": "with",
}
_CREDIT = re.compile(r"^clip ?art by [^-]*- ", re.IGNORECASE)
_SERIES = re.compile(r"\s+- (?:clothing|body part|RPG map elements)$", re.IGNORECASE)
_MONOCHROME = re.compile(r"\s*\((?:B and W|B ?& ?W)\)|[ _](?:bw|BW)$")
_COUNTERS = re.compile(r"(?<=[A-Za-z])#?\d+\b|#\d+|\b0\d+\b|(?<=[a-z]) \d{1,2}$|(?<=[a-z]) \d+(?= (?:\w+ )?pattern$)")

# Not to be said of a picture: how it was made, thanks, jokes.
_ABOUT_THE_FILE = re.compile(
    r"\b(?:i|i'm|my|me|it's|you|your|enjoy|inkscape|sodipodi|vector\w*|trac\w*|svg|made|drawn|convert\w*|derivative|using|"
    r"contact|design\w*|file|clip ?art|openclipart|image|picture|icon|public domain|work|version|illustration|example|"
    r"abiclipart|symbol|creat\w*)\b", re.IGNORECASE)


_NO_FLAG = re.compile(
    r"\b(?:map|coat|outline|contour|(?<!united )states|regions|peninsul\w*|islands,|capitol|route|umbrella|building|"
    r"alternate|lis|inukshuk|eureka|ampel\w*)\b", re.IGNORECASE)


def clean_title(title: str) -> str:
    """The title as a caption, '' if it says nothing of the picture.

    'Clipart by Ann - Red_Apple01' -> 'red apple'; 'Hot Dog (B and W)' -> 'hot dog in black and white'.
    """
    text = _SERIES.sub("", _CREDIT.sub("", html.unescape(title).strip()))
    if _CARELESS.search(text) or (text.isupper() and len(text.split()) == 1 and text.lower() not in kinds()):
        return ""
    text, monochrome = _MONOCHROME.subn("", text)
    text = re.sub(r"\s*\(colou?r\)", "", text.replace("_", " "), flags=re.IGNORECASE)
    text = re.sub(r"(?<=[a-z]{2})(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"\s*\(([^)]*)\)", r", \1", text)
    text = re.sub(r"\s+- ", ", ", " ".join(_COUNTERS.sub(" ", plain(text)).split()))
    caption = as_caption(re.sub(r"[a-z]+", lambda word: _MISSPELT.get(word[0], word[0]), text.lower()))
    caption = " ".join(caption.replace("-", " ").split()) if caption.count("-") > 1 else caption
    words = re.findall(r"[a-z']+", caption)
    if not 1 <= len(words) <= LONGEST_TITLE or len("".join(words)) < 3 or _FOREIGN & set(words):
        return ""
    return f"{caption} in black and white" if monochrome else caption


def clean_flag(title: str, about: str) -> str:
    """The caption of a file in a folder of countries' flags: ' czech_republic' -> 'flag of czech republic'.

    Maps, arms and buildings lie there too; '' for those and for what cannot be told.
    """
    caption = clean_title(title)
    if not caption or re.search(r"flag|dannebrog", caption):
        return caption
    if _NO_FLAG.search(f"{title} {about}"):
        return ""
    return f"flag of {caption.split(', ')[-1]}"


def clean_other_flag(title: str) -> str:
    """The caption of a file in a folder of flags of the past or of causes: 'Historic - USSR', 'Esperanto'."""
    caption = clean_title(title)
    if not caption or "flag" in caption or "signal" in caption:
        return caption
    land = re.fullmatch(r"historic,? -?(?:[a-z ]+, )?([a-z ]+)", caption)
    return f"historic flag of {land[1]}" if land else f"{caption} flag"


def clean_description(text: str, title: str) -> str:
    """The description if it is one plain short sentence that says more than the title, else ''."""
    text = html.unescape(text)
    if _CARELESS.search(text) or not text.isascii():
        return ""
    sentence = plain(_MONOCHROME.sub("", text))
    if first_sentence(sentence) != sentence.rstrip(" .!?") or _ABOUT_THE_FILE.search(sentence):
        return ""
    caption = as_caption(sentence)
    words = re.findall(r"[a-z']+", caption)
    if not 3 <= len(words) <= 16 or _FOREIGN & set(words) or set(words) <= set(re.findall(r"[a-z']+", title)):
        return ""
    return caption
