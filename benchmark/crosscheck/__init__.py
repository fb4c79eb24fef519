"""The cross-check: one attack, several libraries, one model; where they disagree, and why.

``plan`` resolves what is asked, ``attempts`` runs every library under the ``recorder``'s eyes,
``gradients`` sets their gradients side by side, ``compare`` turns attempts into tables,
``findings`` into sentences, ``images`` into pictures;
``check`` is the whole of it, ``results`` the files (free of torch), ``console`` what is printed.
"""
