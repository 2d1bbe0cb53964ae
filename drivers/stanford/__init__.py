"""Stanford Research Systems: DG645 digital delay generator."""
