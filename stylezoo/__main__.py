"""python -m stylezoo"""

from stylezoo.cli import main

if __name__ == "__main__":
    main()
