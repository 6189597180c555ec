"""How much the answers of a model change when the recording changes, against marks: `emodistill stress`."""
