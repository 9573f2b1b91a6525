"""The public data sets, one file each: where its rows are, how it is asked, which rule judges it.

Not here: reading files or the hub (`rows`, `hub` one room up), and the rules themselves (`scorers`).
"""

from paceline.datasets.public.coco_caption import COCO_CAPTION
from paceline.datasets.public.description import PublicSet
from paceline.datasets.public.doc_qa import DOC_QA
from paceline.datasets.public.mmmu import MMMU
from paceline.datasets.public.okvqa import OKVQA
from paceline.datasets.public.science_qa import SCIENCE_QA_IMG
from paceline.datasets.public.st_qa import ST_QA
from paceline.datasets.public.tally_qa import TALLY_QA
from paceline.datasets.public.text_vqa import TEXT_VQA
from paceline.datasets.public.vqa import COCO_2014_VQA

PUBLIC_SETS: dict[str, PublicSet] = {
    each.name: each
    for each in (COCO_2014_VQA, TEXT_VQA, OKVQA, DOC_QA, ST_QA, SCIENCE_QA_IMG, MMMU, TALLY_QA, COCO_CAPTION)
}

__all__ = ["PUBLIC_SETS", "PublicSet"]
