"""Pictures as files: three formats, always the same bytes, and what cannot be written is refused."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.picture import write_picture
from dni_fx.picture.scene import scene_of
from passes import Plan, PreconditionError
from passes.bytes import show_bytes
from tests.flows import Sketch
from tests.scenes import CASES, chain, mlp, planned

SAMPLE = Path(__file__).parents[2] / "samples" / "pictures.py"


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def drawn(request):
    """A graph, a plan for it, and what the picture shows."""
    gm, plan = planned(*request.param)
    return gm, plan, scene_of(gm, plan, "flops")


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_the_same_plan_of_the_same_graph_gives_the_same_bytes(tmp_path, suffix):
    gm, plan = chain(40, 3)
    write_picture(gm, plan, tmp_path / f"one{suffix}")
    write_picture(gm, plan, tmp_path / f"two{suffix}")
    one, two = (tmp_path / f"{name}{suffix}" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_svg_is_xml_in_which_each_box_and_joint_has_a_title(tmp_path, drawn):
    gm, plan, scene = drawn
    write_picture(gm, plan, tmp_path / "plan.svg")
    root = ET.parse(tmp_path / "plan.svg").getroot()
    titled = {group.get("id") for group in root.iter() if any(child.tag.endswith("title") for child in group)}
    assert titled == {f"box-{at}" for at in range(len(scene.boxes))} | {
        f"joint-{at}" for at in range(len(scene.joints))
    }


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.rows = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        self.rows += tag == "tr"
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_needs_nothing_but_itself_and_has_a_row_for_each_stage(tmp_path, drawn):
    gm, plan, scene = drawn
    write_picture(gm, plan, tmp_path / "plan.html")
    page = _Page()
    page.feed((tmp_path / "plan.html").read_text("utf-8"))
    assert not page.open
    assert not page.links
    assert page.rows == 1 + len(scene.lanes)


def test_a_program_is_drawn_like_its_graph(tmp_path):
    program = dni_fx.capture(*mlp())
    plan = dni_fx.plan(program)
    write_picture(program, plan, tmp_path / "one.svg")
    write_picture(training_graph(program), plan, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_drawing_leaves_the_graph_and_the_settings_of_matplotlib_as_they_were(tmp_path):
    import matplotlib as mpl

    gm, plan = chain(9, 2)
    before, settings = str(gm.graph), dict(mpl.rcParams)
    write_picture(gm, plan, tmp_path / "plan.svg")
    assert str(gm.graph) == before
    assert dict(mpl.rcParams) == settings


def test_a_style_of_the_user_changes_nothing(tmp_path):
    import matplotlib as mpl

    gm, plan = chain(9, 2)
    write_picture(gm, plan, tmp_path / "one.svg")
    with mpl.rc_context({"font.size": 30, "savefig.bbox": "tight", "axes.facecolor": "red"}):
        write_picture(gm, plan, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_cost_of_parameters_is_shown_in_bytes(tmp_path):
    program = dni_fx.capture(*mlp())
    plan = dni_fx.plan(program)
    write_picture(program, plan, tmp_path / "plan.html", cost="parameters")
    scene = scene_of(training_graph(program), plan, "parameters")
    assert scene.cost == sum(p.numel() * p.element_size() for p in program.tree.parameters())
    page = (tmp_path / "plan.html").read_text("utf-8")
    assert all(f"<td>{show_bytes(lane.cost)}</td>" in page for lane in scene.lanes)


def test_an_empty_graph_is_one_empty_stage(tmp_path):
    sketch = Sketch()
    gm = sketch.done(sketch.inputs[0])
    write_picture(gm, Plan({}), tmp_path / "plan.svg")
    assert scene_of(gm, Plan({}), "flops").balance == 1.0


def test_another_suffix_is_refused_with_those_that_there_are(tmp_path):
    gm, plan = chain(3, 1)
    with pytest.raises(dni_fx.DniError, match=r"plan\.gif: a picture is a \.svg, \.png or \.html file"):
        write_picture(gm, plan, tmp_path / "plan.gif")


def test_a_plan_of_another_graph_is_refused(tmp_path):
    with pytest.raises(PreconditionError, match="belongs to another graph"):
        write_picture(chain(5, 1)[0], chain(6, 1)[1], tmp_path / "plan.svg")


@pytest.mark.parametrize(("cost", "said"), [("money", "flops, time, parameters"), ("time", "not measured")])
def test_a_cost_that_is_not_known_is_refused(tmp_path, cost, said):
    with pytest.raises(PreconditionError, match=said):
        write_picture(*chain(5, 1), tmp_path / "plan.svg", cost=cost)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(dni_fx.DniError, match="No such file"):
        write_picture(*chain(5, 1), tmp_path / "none" / "plan.svg")


def test_without_matplotlib_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(dni_fx.DniError, match=r"pip install 'dni-fx\[picture\]'"):
        write_picture(*chain(5, 1), tmp_path / "plan.svg")


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, dni_fx.picture, dni_fx.overlay; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_sample_draws_four_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, SAMPLE, tmp_path], capture_output=True, text=True, timeout=300, cwd=SAMPLE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    pictures = sorted(tmp_path.iterdir())
    assert [path.name for path in pictures] == ["encoder-decoder.svg", "gpt.svg", "resnet.svg", "unet.svg"]
    for path in pictures:
        titles = [each.text for each in ET.parse(path).iter() if each.tag.endswith("title")]
        assert len(titles) > 8
        assert str(path) in done.stdout
