"""Prices: where they come from, how old they are, which may be set, and fetching new ones."""

from __future__ import annotations

import http.server
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from advisor.costs import reckon_costs
from advisor.scenario import parse_scenario
from estimator.cheapest import cheapest_gpus
from estimator.estimate import GpuFit
from estimator.price_list import list_prices
from estimator.price_refresh import forget_gpu_prices, refresh_gpu_prices
from estimator.prices import PRICE_NAMES
from estimator.prices_api import find_api_model
from estimator.prices_gpu import gpu_prices, offers_for, snapshot_path
from estimator.prices_hosted import hosted_offers
from estimator.problems import InputError

TODAY = date(2026, 11, 22)


def test_gpus_are_priced_at_a_dozen_providers_each_with_page_source_and_day() -> None:
    assert len({price.provider for price in gpu_prices()}) >= 12
    for price in gpu_prices():
        assert price.page.startswith("https://")
        assert price.source
        assert price.checked_at <= TODAY


def test_a_range_of_offers_is_made_of_offers_somebody_made() -> None:
    offers = offers_for("H100 SXM 80GB")
    assert offers is not None
    assert offers.num_offers > 10
    prices = [price for price in gpu_prices() if price.gpu == "H100 SXM 80GB"]
    for one in (offers.low, offers.mid, offers.high):
        assert one in prices
        assert one.min_gpus == 1
    assert offers.low.usd_per_gpu_hour <= offers.mid.usd_per_gpu_hour
    assert offers.mid.usd_per_gpu_hour <= offers.high.usd_per_gpu_hour
    assert offers_for("MI355X 288GB") is None


def test_api_prices_come_with_cache_batch_and_thresholds() -> None:
    model = find_api_model("anthropic/claude-haiku-5-5")
    price = model.price(prompt_tokens=1000, today=TODAY)
    assert price.provider == "anthropic"
    assert price.cached_read_mtok == price.input_mtok / 10
    assert price.cache_write_mtok == price.input_mtok * Decimal("1.25")
    assert price.cache_write_1h_mtok == price.input_mtok * 2
    assert price.batch_output_mtok == price.output_mtok / 2
    assert price.checked_at is not None
    longer = model.price(prompt_tokens=900_000, today=TODAY)
    assert longer.input_mtok > price.input_mtok
    flash = find_api_model("gemini-3.8-flash")
    later = flash.price(prompt_tokens=0, today=date(2027, 2, 1))
    assert later.input_mtok == 2 * flash.price(prompt_tokens=0, today=TODAY).input_mtok
    with pytest.raises(InputError, match="did you mean claude-haiku-5-5"):
        find_api_model("claude-haiku-55")


def test_hosted_fine_tuning_is_open_until_its_last_day() -> None:
    openai = next(one for one in hosted_offers() if one.provider == "OpenAI")
    assert openai.is_open(date(2027, 1, 6))
    assert not openai.is_open(date(2027, 1, 7))
    assert not next(one for one in hosted_offers() if one.provider == "Cohere").is_open(TODAY)


def test_a_price_older_than_90_days_warns_where_it_is_used() -> None:
    plan = {"model": "meta-llama/Llama-3.1-8B", "method": "lora", "gpu": "H100 SXM 80GB"}
    workload = {"requests_per_month": 1, "input_tokens": 1, "output_tokens": 1}
    scenario = parse_scenario({"plan": plan, "workload": workload})
    seen = offers_for("H100 SXM 80GB")
    assert seen is not None

    def warned(days: int) -> bool:
        today = seen.mid.checked_at + timedelta(days=days)
        found = reckon_costs(scenario, today=today, draws=1).warnings
        return any("H100 SXM 80GB" in one and f"{days} days old" in one for one in found)

    assert not warned(90)
    assert warned(91)
    assert list_prices((), today=TODAY + timedelta(days=400)).warnings


def test_only_names_of_prices_may_be_set() -> None:
    names = [*(name for name in PRICE_NAMES if ":" not in name), "gpu_hour:RTX 4090"]
    parse_scenario({"prices": dict.fromkeys(names, 1)})
    with pytest.raises(InputError, match=r"prices\.gpu_hour:RTX 4900: .*RTX 4090"):
        parse_scenario({"prices": {"gpu_hour:RTX 4900": 1}})
    with pytest.raises(InputError, match=r"prices\.gpu_hours: .*did you mean gpu_hour"):
        parse_scenario({"prices": {"gpu_hours": 1}})
    with pytest.raises(InputError, match=r"prices\.gpu_hour"):
        parse_scenario({"prices": {"gpu_hour": -1}})


def test_the_documentation_names_every_price() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cost.md").read_text(encoding="utf-8")
    for name in PRICE_NAMES:
        assert f"`{name}`" in page


COLUMNS = (
    "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,"
    "gpu_vendor,flags,cpu_arch,provider_data\n"
)
LAMBDA = (
    COLUMNS + "gpu_1x_h100_sxm5,us-east-1,4.44,26,225,1,H100,80,False,,nvidia,,x86,{}\n"
    "gpu_1x_h100_sxm5,us-west-1,4.04,26,225,1,H100,80,False,,nvidia,,x86,{}\n"
    "gpu_1x_h100_pcie,us-west-1,3.03,26,225,1,H100,80,False,,nvidia,,x86,{}\n"
    "gpu_8x_h100_sxm5,us-west-1,24.08,26,225,8,H100,80,False,,nvidia,,x86,{}\n"
    "gpu_1x_h100_spot,us-west-1,1.01,26,225,1,H100,80,True,,nvidia,,x86,{}\n"
    "gpu_1x_unheard_of,us-west-1,1.01,26,225,1,X9000,80,False,,nvidia,,x86,{}\n"
    "cpu_4x,us-west-1,0.10,4,16,0,,,False,,,,x86,{}\n"
)


class Catalogues(http.server.BaseHTTPRequestHandler):
    """What gpuhunt's publisher serves: a catalogue of each provider, empty but for Lambda's."""

    rows = LAMBDA

    def do_GET(self) -> None:
        _, provider, *rest = self.path.split("/")
        if rest == ["version"]:
            self._send(b"20261122-1")
            return
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            rows = self.rows if provider == "lambdalabs" else COLUMNS
            archive.writestr(f"{provider}.csv", rows)
        self._send(stream.getvalue())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Catalogues)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetched_prices_stand_in_for_their_provider_until_forgotten(catalogues: None) -> None:
    before = gpu_prices()
    found = refresh_gpu_prices(TODAY)
    assert found.providers == ("Lambda",)
    assert "RunPod" in found.without_prices
    fetched = [price for price in gpu_prices() if price.provider == "Lambda"]
    assert {(price.gpu, price.min_gpus, price.usd_per_gpu_hour) for price in fetched} == {
        ("H100 SXM 80GB", 1, Decimal("4.04")),
        ("H100 SXM 80GB", 8, Decimal("3.01")),
        ("H100 PCIe 80GB", 1, Decimal("3.03")),
    }
    assert all(price.checked_at == TODAY for price in fetched)
    assert all("gpuhunt" in price.source for price in fetched)
    others = [price for price in gpu_prices() if price.provider != "Lambda"]
    assert others == [price for price in before if price.provider != "Lambda"]
    assert [one.name for one in snapshot_path().parent.iterdir()] == ["gpu_prices.csv"]
    assert list_prices((), today=TODAY).fetched_prices == str(snapshot_path())
    assert forget_gpu_prices()
    assert gpu_prices() == before
    assert not forget_gpu_prices()


def test_fetched_prices_decide_which_gpu_is_cheapest(
    catalogues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = GpuFit(name="H100 PCIe 80GB", memory_bytes=1, fits="yes", headroom_bytes=1)
    (before,) = cheapest_gpus([fit])
    cheap = COLUMNS + "gpu_1x_h100_pcie,x,0.55,26,225,1,H100,80,False,,nvidia,,x86,{}\n"
    monkeypatch.setattr(Catalogues, "rows", cheap)
    refresh_gpu_prices(TODAY)
    (after,) = cheapest_gpus([fit])
    assert before.usd_per_hour is not None
    assert before.usd_per_hour > Decimal("0.55")
    assert (after.provider, after.usd_per_hour) == ("Lambda", Decimal("0.5500"))


def test_catalogues_without_usable_prices_leave_what_was_there(
    catalogues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_gpu_prices(TODAY)
    kept = snapshot_path().read_text(encoding="utf-8")
    monkeypatch.setattr(Catalogues, "rows", COLUMNS)
    with pytest.raises(InputError, match="no price of a bundled GPU"):
        refresh_gpu_prices(TODAY)
    assert snapshot_path().read_text(encoding="utf-8") == kept


def test_catalogues_out_of_reach_and_a_missing_gpuhunt_are_one_message_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be reached") as offline:
        refresh_gpu_prices(TODAY)
    assert len(offline.value.problems) == 1
    monkeypatch.setitem(sys.modules, "gpuhunt", None)
    with pytest.raises(InputError, match=r"tuneplan\[prices\]") as missing:
        refresh_gpu_prices(TODAY)
    assert len(missing.value.problems) == 1
    assert not snapshot_path().exists()


def test_a_damaged_snapshot_is_named_with_the_way_out() -> None:
    snapshot_path().parent.mkdir(parents=True)
    snapshot_path().write_text("gpu,provider\nH100 SXM 80GB,Lambda\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: is no price of a GPU; fix: tuneplan prices for"):
        gpu_prices()
