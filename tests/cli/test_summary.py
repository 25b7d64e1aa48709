"""jaxcnn summary: its table, JSON and errors."""

import json

import pytest

from jaxcnn.cli.main import main


def test_vgg_a_lrn_compared_with_the_paper(capsys):
    assert main(["summary", "vgg_a_lrn"]) == 0
    text = capsys.readouterr().out
    assert "132,863,336" in text
    assert "(paper: 133 million, Table 2)" in text
    assert "27C²" in text
    assert "81% more" in text


@pytest.mark.parametrize("flags", [["alexnet"], ["googlenet", "--detail"], ["vgg_b_5x5"]])
def test_table_fits_a_terminal(flags, capsys):
    assert main(["summary", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_errors_in_the_paper_are_marked(capsys):
    assert main(["summary", "googlenet"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["conv1"].endswith("2.7K *, 34M *")
    assert lines["inception_3a"].endswith("159K, 128M")
    assert lines["inception_5a"].endswith("1072K *, 54M *")
    assert "in training" in lines["+"]


def test_other_nets_than_the_papers_are_not_compared_with_it(capsys):
    flags = ["--width", "0.5", "--stem", "separable", "--auxiliary", "false"]
    assert main(["summary", "googlenet", *flags]) == 0
    text = capsys.readouterr().out
    assert "paper:" not in text
    assert "159K" not in text
    assert "aux_4a" not in text


def test_json(capsys):
    assert main(["summary", "vgg", "--column", "E", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["parameters"], tree["macs"]) == (143_667_240, 19_632_062_464)
    (pool5,) = [row for row in tree["rows"] if row["layer"] == "pool5"]
    assert pool5["shape"] == [7, 7, 512]
    assert pool5["field"]["size"] == 268


def test_usage_errors(capsys):
    assert main(["summary", "alexnet", "--column", "E"]) == 2
    assert "unknown field 'column'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["summary", "resnet"])
    assert caught.value.code == 2
    assert main(["summary", "alexnet", "--remat", "maybe"]) == 2
    assert "--remat must be true or false, got 'maybe'" in capsys.readouterr().err


def test_a_flag_has_the_type_of_its_field_in_the_net(capsys):
    """lrn is a string in AlexNet and a boolean in GoogLeNet."""
    assert main(["summary", "alexnet", "--lrn", "whole", "--json"]) == 0
    assert main(["summary", "googlenet", "--lrn", "false"]) == 0
    capsys.readouterr()
    assert main(["summary", "googlenet", "--lrn", "whole"]) == 2
    assert "--lrn must be true or false" in capsys.readouterr().err
