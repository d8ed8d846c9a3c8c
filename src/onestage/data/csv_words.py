"""What to do about the columns of a CSV file whose names are words of other languages than English."""

from collections.abc import Mapping, Sequence

from onestage.data.split_words import bare
from onestage.data.text import quoted

_ROLES = {
    "image": "datei dateiname bild bildname bilddatei archivo nombrearchivo imagen fichier nomfichier immagine arquivo imagem",
    "label": "klasse klassenname bezeichnung clase etiqueta categoria classe categorie etichetta etykieta klasa",
    "x1": "links izquierda gauche sinistra esquerda",
    "y1": "oben arriba haut boven sopra",
    "x2": "rechts derecha droite destra direita",
    "y2": "unten abajo bas onder sotto",
}
_SIDES = {
    "x2": "breite ancho anchura largeur larghezza largura breedte width w",
    "y2": "hohe hoehe alto altura hauteur altezza hoogte height h",
}
"""German, Spanish, French, Italian, Portuguese and Dutch words for the roles of ``csv_header``, and for the sides of a box that
tell an edge; in lower case, without accents, spaces, hyphens and underscores.
"""

_IGNORED = str.maketrans("", "", " _-#")


def foreign_columns(row: Sequence[str], roles: Sequence[str]) -> dict[str, str]:
    """For each of the roles that a column has in another language: its name as the header has it."""
    return _found(row, {role: _ROLES[role] for role in roles})


def foreign_sides(row: Sequence[str]) -> dict[str, str]:
    """The columns of a box's width and height, by the roles of the corners that they tell; none unless there are both."""
    found = _found(row, _SIDES)
    return found if len(found) == len(_SIDES) else {}


def from_sides(sides: Mapping[str, str]) -> str:
    """What to do about a header with the left and top edges and these columns of width and height."""
    width, height = (quoted(sides[role]) for role in ("x2", "y2"))
    return (
        f"in place of {width} and {height}, if they are the sides of the boxes, write columns xmax and ymax:"
        f" xmax is xmin + {width}, and ymax is ymin + {height}"
    )


def _found(row: Sequence[str], words: Mapping[str, str]) -> dict[str, str]:
    cells = {bare(cell.strip()).translate(_IGNORED): cell.strip() for cell in row}
    near = {role: next((cell for word, cell in cells.items() if word in known.split()), "") for role, known in words.items()}
    return {role: cell for role, cell in near.items() if cell}
