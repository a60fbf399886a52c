"""The tables of docs/lesion-kinetics.md: `python -m training.synthesis.kinetics_table` prints them.

Sources were read as far as an excerpt or an abstract shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from longilesion.diagnosis_settings import LESION_TYPES, PHASES
from longilesion.markdown import markdown_table
from training.synthesis.kinetics import TISSUES, LesionKind, Part, PhaseRanges, Range
from training.synthesis.lesion_kinds import kinds_of

SOURCES: Mapping[str, str] = {
    "A2003": "Computed tomographic appearance of colorectal hepatic metastases, Ann Acad Med Singapore 2003;32:191 "
    "(74 lesions, venous: a rim in 73 %, enhancing in 83.8 %)",
    "ACR": "Incidental liver lesions on CT, as summarised from the ACR's white paper (benign cysts with "
    "pseudo-enhancement may exceed 20 HU)",
    "CEUS": "ceus.hu, FNH: CT and CEUS, 2011 (scar dark in the venous phase)",
    "CI2021": "Focal hepatic intrinsically hyperattenuating lesions at unenhanced CT, Clin Imaging 2021, "
    "S0899-7071(21)00354-5",
    "DT": "Radiopaedia, hepatic abscess with double target sign (membrane early and lasting, oedema late)",
    "DU": "Multimodality approach to detection and characterization of hepatic hemangiomas, Duke (sclerosed and other "
    "variants)",
    "ECR2014": "ECR 2014, C-0801, Differential diagnosis of complex liver cysts (capsule, septa, nodules)",
    "ECR2019": "ECR 2019, C-0923, The wide spectrum of hepatic cystic lesions (0-10 HU, no enhancement)",
    "ER10428": "Eurorad 10428, The double target sign (fluid of 18 HU)",
    "F2011": "Furlan et al., Br J Radiol 2011;84:403 (48 HCC: 96 % bright or equal in the arterial phase; wash-out in "
    "33 % in the venous phase, in more later)",
    "FF": "Kawashima et al., J Comput Assist Tomogr 1986;10:329 (30 HU, and 50 with contrast); CT appearance of focal "
    "fatty infiltration of the liver (near water)",
    "G2006": "MDCT of the liver and hypervascular hepatocellular carcinomas: optimizing scan delays, AJR 2006 (171 "
    "patients; rise in the late arterial phase: aorta 300-336, spleen 97-108, liver 15-25, portal vein 75-104, hepatic "
    "veins 24-51 HU; venous: liver 59-63, aorta 117-125, spleen 73-82)",
    "GK2007": "Multi-detector row CT of the kidney: optimizing scan delays, Eur J Radiol 2007;63:420 (rise of the "
    "cortex 195-217 HU; medulla 145 at 55 s)",
    "HB2010": "Contrast enhancement of hepatic hemangiomas on multiphase MDCT, AJR 2010, PMID 20651193 (58 "
    "haemangiomas: few nodules as bright as the aorta in the arterial phase, no difference between vessels in the "
    "delayed phase)",
    "II2021": "Hepatic epithelioid haemangioendothelioma and liver metastases, Insights Imaging 2021, "
    "s13244-021-01143-x (slight, thin rim, then slowly progressive)",
    "L2004": "Triple-phase MDCT of hepatocellular carcinoma, AJR 2004, PMID 14975963 (51 patients: hypervascular part "
    "in 96 %, wash-out in 63-86 %)",
    "LI-RADS": "LI-RADS' major features, as reviewed in Hepatoma Res 2020;6:63 (enhancing capsule, wash-out)",
    "MR2001": "Mortele and Ros, Cystic focal liver lesions in the adult, RadioGraphics 2001;21:895",
    "N2017": "Neuroendocrine liver metastases, Eur J Radiol 2017;89:156 (559 lesions: 70 % hypervascular, venous dark "
    "or equal)",
    "OM": "Differential diagnosis of hepatic lesions on CT, omicsonline.org 2157-7013-6-225, table 2",
    "P2013": "Quantitatively defining washout in hepatocellular carcinoma, AJR 2013, PMID 23255745 (delayed: liver / "
    "lesion has a median of 1.21 in HCC and at least 1.07; at a liver of 93 HU that is 16 and 6 HU)",
    "PEL": "Peliosis hepatis, roentgenrayreader 2010 (pools in the centre, mostly centrifugal, up to blood's HU)",
    "PIC2015": "Pickhardt et al., Primary hepatic angiosarcoma, Eur Radiol 2015;25:315 (35 patients: foci that follow "
    "the blood, without wash-out)",
    "PMC3467439": "Hepatic angiomyolipoma with minimal fat, Clin Mol Hepatol 2012;18:330",
    "PMC8870737": "Mass-forming intrahepatic cholangiocarcinoma and its mimickers, 2022 (hypervascular form)",
    "R-LA": "Radiopaedia, late arterial phase (aorta 290-360, portal vein 145 +- 20 HU, liver 20-30 above unenhanced)",
    "RB2016": "Hepatic epithelioid hemangioendothelioma, Radiol Bras 2016;49:288 (rim, dark inner border, late core)",
    "RK-FNH": "Radiology Key, focal nodular hyperplasia (intense arterial, then about equal; scar bright late)",
    "RK-HY": "Radiology Key, hepatic hydatid cyst (daughter cysts less dense than the mother cyst)",
    "RK2001": "Focal nodular hyperplasia and hepatocellular adenoma: multiphasic helical CT, AJR 2001;176:1493, PMID "
    "11373219 (FNH 51 +- 6, 118 +- 15, 112 +- 20 HU; adenoma 56 +- 8, 80 +- 11, 110 +- 13 HU: non-contrast, arterial, "
    "venous)",
    "RT-L": "radtechonduty.com, CT scan of the liver and enhancing phases, 2017 (38-70 HU)",
    "SE2010": "Senturk et al., Dynamic MDCT findings of hepatocellular carcinoma (83 patients: 13 % hypovascular)",
    "SK-A": "SeekHealthZ, hepatocellular adenoma on US, CT, MRI (blood inside, transient enhancement)",
    "SK-F": "SeekHealthZ, CT and MRI features of a hepatic hemangioma (below 15 mm often filled at once, then bright)",
    "SK-H": "SeekHealthZ, US, CT and MRI features of hepatic hemangiomas (as blood without contrast; nodules from the "
    "rim, filling in slowly)",
    "SK-K": "SeekHealthZ, normal appearance of the kidneys on CT and MRI (30-50 HU)",
    "SK-L": "SeekHealthZ, normal appearance of the liver on CT and MRI (50-70 HU, spleen about 10 less)",
    "SK-M": "SeekHealthZ, liver metastases on US, CT, MRI (mostly dark without contrast and hypovascular)",
    "SP": "StethoPrep, CT numbers, after Grainger and Allison (acute blood 50-90, fat -100 to -50 HU)",
    "V2000": "Peripheral cholangiocarcinomas on CT, PMID 10931983 (25 tumours: rim in 57 % in the arterial phase, all "
    "dark in the venous one, 70 % bright late)",
}

_HEADINGS = ("non-contrast", "arterial", "venous", "delayed")


def kinetics_tables() -> str:
    """The tables of tissues, of lesions, and of sources, in Markdown."""
    tissues = ([tissue, *map(_range, row.hu), _cited(row.sources)] for tissue, row in TISSUES.items())
    lesions = (
        _row(kind, part) for lesion_type in LESION_TYPES for kind in kinds_of(lesion_type) for part in kind.parts
    )
    blocks = (
        ["## Tissues", "", *markdown_table(("tissue", *_HEADINGS, "sources"), tissues)],
        [
            "## Lesions",
            "",
            *markdown_table(
                ("type", "kind", "share", "part", "between depths", "HU relative to", *_HEADINGS, "sources"), lesions
            ),
        ],
        ["## Sources", "", *markdown_table(("key", "source"), SOURCES.items())],
    )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _row(kind: LesionKind, part: Part) -> list[str]:
    first = part is kind.parts[0]
    share = kind.share / sum(each.share for each in kinds_of(kind.lesion_type))
    return [
        kind.lesion_type if first else "",
        kind.name if first else "",
        f"{share:.0%}" if first else "",
        part.name,
        _depths(part),
        part.relative_to,
        *map(_range, part.hu),
        _cited(part.sources),
    ]


def _depths(part: Part) -> str:
    """Where a part lies; one that fills in ends elsewhere in each phase."""
    ends = [_share(end) for end in _distinct(part.ends)]
    return f"{_share(part.begins)} - {', '.join(ends)}"


def _distinct(ranges: PhaseRanges) -> Iterator[Range]:
    yield from ranges[:1] if len(set(ranges)) == 1 else ranges


def _share(limits: Range) -> str:
    low, high = limits
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _range(limits: Range) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _cited(sources: tuple[str, ...]) -> str:
    if len(set(sources)) == 1:
        return sources[0]
    return ", ".join(f"{phase[0].upper()}: {source}" for phase, source in zip(PHASES, sources, strict=True))


if __name__ == "__main__":
    print(kinetics_tables(), end="")
