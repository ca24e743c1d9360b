"""Names of link prefixes that a dump's ``<siteinfo>`` does not list, as data."""

# names that every MediaWiki accepts in addition to the local ones
FILE = ("file", "image", "media")
CATEGORY = ("category",)
# old and alternative names by language: (files, categories)
ALIASES = {
    "zh": (("文件", "檔案", "档案", "图像", "圖像", "媒体"), ("分类", "分類")),
    "de": (("datei", "bild"), ("kategorie",)),
    "fr": (("fichier",), ("catégorie",)),
    "es": (("archivo", "imagen"), ("categoría",)),
    "it": (("immagine",), ("categoria",)),
    "pt": (("ficheiro", "imagem", "arquivo"), ("categoria",)),
    "ru": (("файл", "изображение"), ("категория",)),
    "ja": (("ファイル", "画像"), ("カテゴリ",)),
    "nl": (("bestand", "afbeelding"), ("categorie",)),
    "pl": (("plik", "grafika"), ("kategoria",)),
    "lv": (("attēls", "fails"), ("kategorija",)),
}
# interwiki prefixes that look like language codes, but whose links are part of the sentence
NO_LANGUAGE = {"doi", "rfc", "pmid", "voy", "hdl", "imdb", "oeis", "wmf", "tools"}
