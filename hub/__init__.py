"""Everything around the model: data, training, evaluation, studies, publishing, and the command line."""
