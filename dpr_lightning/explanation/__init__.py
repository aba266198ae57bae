"""Why a question was answered or missed: its gold passages, what stands above them, and what may have gone wrong."""
