"""Audio: language-queried separation. Free of torch until a verb runs."""
