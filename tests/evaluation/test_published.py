from alan.evaluation.published import published_dice, published_views


def test_published_values_equal_table_2():
    cells = {(c.training, c.k, c.structure, c.phase): c for c in published_dice("camus")}
    assert len(cells) == 16
    la = cells["EchoNet-Dynamic", 112, "la", "ED"]
    assert (round(la.mean, 4), round(la.std, 4), la.n) == (0.6153, 0.1740, 100)
    echonet = {(c.training, c.k, c.phase): c.mean for c in published_dice("echonet")}
    assert echonet["EchoNet-Dynamic", 64, "ES"] == 0.8011
    assert {c.structure for c in published_dice("echonet")} == {"lv"}


def test_totals_of_table_3_lie_between_their_views():
    rows = published_views()
    assert [(r.training, r.k) for r in rows][-1] == ("ImageNet", 10)
    for row in rows:
        views = [value for name, value in row.accuracy.items() if name != "total"]
        assert min(views) < row.accuracy["total"] < max(views)
