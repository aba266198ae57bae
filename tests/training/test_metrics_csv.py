"""metrics.csv survives interruptions."""

from dpr_lightning.training.metrics_csv import MetricsCsv


def logger(folder, *steps, columns=("loss",), save=True):
    made = MetricsCsv(folder)
    for step in steps:
        for name in columns:
            made.log_metrics({name: step / 2}, step)
        if save:
            made.save()
    return made


def lines(folder):
    return (folder / "metrics.csv").read_text().splitlines()


def test_a_step_is_one_row_which_save_writes_to_the_file(tmp_path):
    made = logger(tmp_path, 0, 1, columns=("loss", "lr"))
    assert lines(tmp_path) == ["step,loss,lr", "0,0.0,0.0", "1,0.5,0.5"]
    made.log_metrics({"loss": 9}, 2)
    assert len(lines(tmp_path)) == 3
    made.finalize("success")
    assert lines(tmp_path)[-1] == "2,9,"


def test_a_value_for_a_saved_step_joins_its_row(tmp_path):
    made = logger(tmp_path, 0, 1)
    made.log_metrics({"val": 7}, 1)
    made.save()
    made.log_metrics({"loss": 4}, 1)
    made.save()
    assert lines(tmp_path) == ["step,loss,val", "0,0.0,", "1,4,7"]


def test_a_resumed_run_replaces_rows_from_its_first_step_on(tmp_path):
    made = logger(tmp_path, 0, 1, 2, 3)
    made.log_metrics({"val": 5}, 3)
    made.save()
    logger(tmp_path, 2)
    assert lines(tmp_path) == ["step,loss", "0,0.0", "1,0.5", "2,1.0"]


def test_a_resumed_run_keeps_the_columns_of_earlier_rows(tmp_path):
    logger(tmp_path, 0, 1, columns=("loss", "val"))
    logger(tmp_path, 2)
    assert lines(tmp_path) == ["step,loss,val", "0,0.0,0.0", "1,0.5,0.5", "2,1.0,"]


def test_an_interruption_loses_only_unsaved_rows(tmp_path):
    made = logger(tmp_path, 0, 1)
    made.log_metrics({"loss": 8}, 2)
    del made
    assert lines(tmp_path) == ["step,loss", "0,0.0", "1,0.5"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_interrupted_run_without_logged_steps_keeps_the_file(tmp_path):
    logger(tmp_path, 0, 1)
    before = lines(tmp_path)
    MetricsCsv(tmp_path).finalize("interrupted")
    assert lines(tmp_path) == before


def test_a_last_line_that_was_cut_off_is_not_read(tmp_path):
    logger(tmp_path, 0, 1, 20)
    file = tmp_path / "metrics.csv"
    file.write_text(file.read_text()[:-6])  # "20,10.0" became "2"
    logger(tmp_path, 20)
    assert lines(tmp_path) == ["step,loss", "0,0.0", "1,0.5", "20,10.0"]
