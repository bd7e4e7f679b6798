# SPDX-License-Identifier: MIT
"""Calling codes with made-up prices: enough to bill a text and to fill the price list.

A shared code counts for its largest country, so a Canadian number is billed as one of the US.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Country:
    """ISO code, name, calling code (None in lists: unknown), price of one part."""

    code: str
    name: str
    prefix: int | None
    dkk: Decimal
    eur: Decimal

    def price(self, currency: str) -> Decimal:
        """Price of one SMS part in DKK or EUR."""
        return self.eur if currency == "EUR" else self.dkk


_ROWS = """
DK 45 0.15 0.0201 Denmark|SE 46 0.31 0.0416 Sweden|NO 47 0.38 0.0510 Norway|DE 49 0.52 0.0698 Germany
FI 358 0.38 0.0510 Finland|IS 354 0.31 0.0416 Iceland|FO 298 0.22 0.0295 Faroe Islands
GL 299 0.30 0.0403 Greenland|GB 44 0.26 0.0349 United Kingdom|IE 353 0.41 0.0550 Ireland
NL 31 0.62 0.0832 Netherlands|BE 32 0.52 0.0698 Belgium|LU 352 0.40 0.0537 Luxembourg
FR 33 0.35 0.0470 France|ES 34 0.28 0.0376 Spain|PT 351 0.24 0.0322 Portugal|IT 39 0.38 0.0510 Italy
CH 41 0.47 0.0631 Switzerland|AT 43 0.51 0.0684 Austria|PL 48 0.20 0.0268 Poland
CZ 420 0.36 0.0483 Czechia|SK 421 0.44 0.0590 Slovakia|HU 36 0.43 0.0577 Hungary
SI 386 0.40 0.0537 Slovenia|HR 385 0.42 0.0563 Croatia|RO 40 0.41 0.0550 Romania
BG 359 0.55 0.0738 Bulgaria|GR 30 0.39 0.0523 Greece|EE 372 0.41 0.0550 Estonia|LV 371 0.37 0.0496 Latvia
LT 370 0.27 0.0362 Lithuania|UA 380 0.66 0.0885 Ukraine|TR 90 0.09 0.0121 Turkey|AD 376 0.31 0.0416 Andorra
US 1 0.06 0.0081 United States|MX 52 0.33 0.0443 Mexico|BR 55 0.18 0.0242 Brazil|AR 54 0.50 0.0671 Argentina
IN 91 0.10 0.0134 India|CN 86 0.30 0.0403 China|JP 81 0.52 0.0698 Japan|KR 82 0.29 0.0389 South Korea
SG 65 0.27 0.0362 Singapore|AU 61 0.28 0.0376 Australia|NZ 64 0.58 0.0779 New Zealand
ZA 27 0.19 0.0255 South Africa|EG 20 0.80 0.1074 Egypt|KE 254 0.55 0.0738 Kenya|NG 234 0.60 0.0805 Nigeria
IL 972 0.21 0.0282 Israel|AE 971 0.33 0.0443 United Arab Emirates|SA 966 0.35 0.0470 Saudi Arabia
"""


def _parse(row: str) -> Country:
    code, prefix, dkk, eur, name = row.split(" ", 4)
    return Country(code, name, int(prefix), Decimal(dkk), Decimal(eur))


COUNTRIES = tuple(_parse(row) for line in _ROWS.split("\n") if line for row in line.split("|"))
ELSEWHERE = Country("ZZ", "Elsewhere", None, Decimal("0.90"), Decimal("0.1208"))
_BY_PREFIX = {str(country.prefix): country for country in COUNTRIES}


def country_of(msisdn: str) -> Country:
    """The country whose calling code msisdn starts with; no calling code begins another."""
    for length in (3, 2, 1):
        if country := _BY_PREFIX.get(msisdn[:length]):
            return country
    return ELSEWHERE


def price_list() -> dict[str, list[dict[str, object]]]:
    """The body of the price list; premium costs a quarter more."""
    rows = (*COUNTRIES, ELSEWHERE)
    return {
        "standard": [_price_row(country, Decimal(1)) for country in rows],
        "premium": [_price_row(country, Decimal("1.25")) for country in rows],
    }


def _price_row(country: Country, factor: Decimal) -> dict[str, object]:
    return {
        "country": country.code,
        "country_name": country.name,
        "prefix": country.prefix,
        "dkk": float(country.dkk * factor),
        "eur": float(country.eur * factor),
    }
