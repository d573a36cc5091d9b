"""Understanding: questions about private fields, answered by the likeliest label: training of a task, its measure."""
