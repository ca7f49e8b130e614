"""Building a data set of questions on document pages in Docmatix's schema from a folder of PDFs.

    find -> pdf (pages drawn, lines read) -> rows of pages -> questioner (rules, endpoint, local) -> filters
         -> parts (one a PDF) -> shards, counts, data card

The recipe is that of Docmatix (arXiv:2408.12637, section 5.1.2): pages at 150 dpi, up to four a row, five prompts for
variety, and a filter that dropped 15 % of the pairs.
"""
